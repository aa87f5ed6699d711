"""Chat template + messages → prompt text, whatever the template tries.

Data flow: render (inputs made plain, compiled template from a cache) → sandbox
(what a template may call) → budget (how much it may use).
"""

from csaq_runtime.template.render import plain_values, render_chat

__all__ = ["plain_values", "render_chat"]
