"""Pictures and pages about files: hand-written SVG in one self-contained HTML file."""
