"""The chat of `csaq run`: `session` (what is said), `commands` (slash commands), `terminal`."""
