"""Bars in an SVG that is readable on a light and on a dark page."""

CLASSES = {"wg-embed": "ours", "wg-embed without vnet header": "plain", "fwd gso-aead": "floor"}

# A browser chooses by its own setting, also where the plot is an image in a page.
STYLE = """<style>
text { fill: #1f2328 } .paper { fill: #ffffff } .bar { fill: #8fa9c4 } .ours { fill: #1a7f37 } .plain { fill: #6fc284 }
.floor { fill: #c4c9cf } .title { font-weight: 600 } .faint { fill: #636c76 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .paper { fill: #0d1117 } .bar { fill: #47617d } .ours { fill: #3fb950 }
  .plain { fill: #2b7a3f } .floor { fill: #4a525c } .faint { fill: #9198a1 }
}
</style>"""
COLUMN, ROW, NAMES, BARS = 480, 17, 200, 205


def panel(title, more, values, form, x, y):
    """The bars of one figure. A bar begins at zero, and the value stands behind it."""
    top = max(value for _, value in values) or 1
    parts = [f'<text x="{x}" y="{y}"><tspan class="title">{title}</tspan>'
             f'<tspan class="faint" dx="6">{"more" if more else "less"} is better</tspan></text>']
    for name, value in values:
        y += ROW
        width = value / top * BARS
        parts.append(f'<text x="{x + NAMES - 8}" y="{y}" text-anchor="end">{name}</text>')
        place = f'x="{x + NAMES}" y="{y - 10}" width="{width:.1f}" height="12"'
        parts.append(f'<rect class="{CLASSES.get(name, "bar")}" {place}/>')
        parts.append(f'<text x="{x + NAMES + width + 6:.1f}" y="{y}">{form.format(value)}</text>')
    return parts, y


def svg(figures):
    """Two columns of panels, one for each of (title, whether more is better, format, [(name, value)])."""
    below, parts = [24, 24], []
    for title, more, form, values in figures:
        column = below.index(min(below))
        bars, y = panel(title, more, values, form, 12 + column * COLUMN, below[column])
        parts += bars
        below[column] = y + 2 * ROW
    wide, tall = 2 * COLUMN, max(below) - ROW
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{tall}" viewBox="0 0 {wide} {tall}"'
    head += ' font-family="system-ui, sans-serif" font-size="12">' + STYLE
    return head + f'<rect class="paper" width="{wide}" height="{tall}"/>' + "\n".join(parts) + "</svg>\n"
