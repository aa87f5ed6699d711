"""Chat template + messages → prompt text, whatever the template tries.

Data flow: render (inputs made plain, compiled template from a cache) → sandbox
(what a template may call) → budget (how much it may use).
"""

from csaq_runtime.template.render import render_chat

__all__ = ["render_chat"]
