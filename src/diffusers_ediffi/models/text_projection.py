# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What makes the inputs of unCLIP's decoder (arXiv 2204.06125, section 2.1) of CLIP's embeddings, as Karlo has it."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models import ModelMixin
from torch import nn

from .network_config import check_count

LIMITS = {"clip_extra_context_tokens": 2**10} | dict.fromkeys(
    ("clip_embeddings_dim", "time_embed_dim", "cross_attention_dim"), 2**14
)


class UnCLIPTextProjection(ModelMixin, ConfigMixin):
    """Projects CLIP's embeddings of text and picture to a U-Net's context and to what is added to its timestep.

    The weights are those of `UnCLIPTextProjModel`, which diffusers has among its deprecated pipelines.

    Args:
        clip_extra_context_tokens (`int`): Columns of the context that are made of the picture's embedding.
        clip_embeddings_dim (`int`): Width of CLIP's embeddings.
        time_embed_dim (`int`): Width of the U-Net's timestep embedding.
        cross_attention_dim (`int`): Width of the context.

    Raises:
        ValueError: A number is not a whole number of at least 1, or too large for any network.
    """

    @register_to_config
    def __init__(
        self,
        clip_extra_context_tokens: int = 4,
        clip_embeddings_dim: int = 768,
        time_embed_dim: int = 1536,
        cross_attention_dim: int = 2048,
    ):
        super().__init__()
        for name, most in LIMITS.items():
            check_count(name, self.config[name], most)
        self.learned_classifier_free_guidance_embeddings = nn.Parameter(torch.zeros(clip_embeddings_dim))
        self.embedding_proj = nn.Linear(clip_embeddings_dim, time_embed_dim)
        self.clip_image_embeddings_project_to_time_embeddings = nn.Linear(clip_embeddings_dim, time_embed_dim)
        self.clip_extra_context_tokens_proj = nn.Linear(
            clip_embeddings_dim, clip_extra_context_tokens * cross_attention_dim
        )
        self.encoder_hidden_states_proj = nn.Linear(clip_embeddings_dim, cross_attention_dim)
        self.text_encoder_hidden_states_norm = nn.LayerNorm(cross_attention_dim)

    def forward(
        self, image_embeds: torch.Tensor, text_embeds: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the U-Net is called with.

        Args:
            image_embeds (`torch.Tensor`): CLIP's embeddings of pictures, (batch, clip_embeddings_dim); of one that is
                dropped `learned_classifier_free_guidance_embeddings`.
            text_embeds (`torch.Tensor`): Its pooled embeddings of texts, of the same shape.
            encoder_hidden_states (`torch.Tensor`): Its text tokens, (batch, tokens, clip_embeddings_dim).

        Returns:
            The context (batch, clip_extra_context_tokens + tokens, cross_attention_dim), the picture first, and
            `class_labels` (batch, time_embed_dim).
        """
        added = self.clip_image_embeddings_project_to_time_embeddings(image_embeds) + self.embedding_proj(text_embeds)
        picture = self.clip_extra_context_tokens_proj(image_embeds)
        picture = picture.unflatten(1, (-1, self.config.clip_extra_context_tokens)).transpose(1, 2)
        text = self.text_encoder_hidden_states_norm(self.encoder_hidden_states_proj(encoder_hidden_states))
        return torch.cat([picture, text], dim=1), added
