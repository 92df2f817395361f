# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""How the page looks, light and dark. Fonts are the system's: nothing is loaded from elsewhere."""

import gradio as gr

THEME = gr.themes.Soft(
    primary_hue="indigo",
    secondary_hue="pink",
    neutral_hue="slate",
    radius_size="lg",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    # Contrast of at least 4.5 (WCAG AA).
    block_title_text_color="#3730a3",
    block_title_text_color_dark="#ffffff",
    block_label_text_color="#3730a3",
    block_label_text_color_dark="#ffffff",
    checkbox_label_background_fill_selected="#4338ca",
    checkbox_label_background_fill_selected_dark="#4338ca",
    body_text_color_subdued="#475569",
    body_text_color_subdued_dark="#a8b3c4",
    block_info_text_color="#475569",
    block_info_text_color_dark="#a8b3c4",
    input_placeholder_color="#64748b",
    input_placeholder_color_dark="#94a3b8",
    button_primary_background_fill="#4338ca",
    button_primary_background_fill_hover="#3730a3",
    button_primary_background_fill_dark="#4f46e5",
    button_primary_background_fill_hover_dark="#4338ca",
)
HEAD = '<meta name="viewport" content="width=device-width, initial-scale=1">'
CSS = """
.gradio-container { max-width: min(1280px, 100%) !important; margin: 0 auto; }
.ediffi-head h1 { font-size: 1.9rem; font-weight: 750; letter-spacing: -0.02em; margin: 0.4rem 0 0.1rem; }
.ediffi-head p, .ediffi-foot { color: var(--body-text-color-subdued); }
.ediffi-foot { font-size: 0.85rem; text-align: center; }
button[role="tab"][aria-selected="true"] { color: #3730a3 !important; }
.dark button[role="tab"][aria-selected="true"] { color: #c7d2fe !important; }
.draw-row button { min-height: 3rem; }
@media (max-width: 640px) { .gradio-container { padding: 0.5rem !important; } }
"""
