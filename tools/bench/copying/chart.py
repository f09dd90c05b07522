"""The table as a picture: for each workload, what an object costs each copier, in multiples of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.sax.saxutils import escape

from tools.bench.copying.contest import Used

ROW, LEFT, WIDE, MOST = 22, 190, 420, 64.0


def drawn(workloads: Mapping[str, Mapping[str, Used]]) -> str:
    """An SVG. The scale is logarithmic: each step to the right doubles the cost."""
    lines = ['<text x="10" y="20" class="v">CPU time of an object in multiples of ours (logarithmic), and peak memory</text>']
    y = 50
    for name, found in workloads.items():
        lines.append(f'<text x="10" y="{y}" class="t">{escape(name)}</text>')
        mine = found["ours"].cpu_s / found["ours"].objects
        for who, used in found.items():
            y += ROW
            ratio = used.cpu_s / used.objects / mine
            width = max(2.0, WIDE * (math.log2(max(ratio, 0.25)) + 2) / (math.log2(MOST) + 2))
            kind = "o" if who.startswith("ours") else "c" if who.endswith("in C") else "r"
            lines.append(f'<text x="{LEFT - 8}" y="{y}" class="n">{escape(who)}</text>')
            lines.append(f'<rect x="{LEFT}" y="{y - 12}" width="{width:.0f}" height="15" class="{kind}"/>')
            told = f"{ratio:.2f} x" if ratio < 10 else f"{ratio:.0f} x"
            lines.append(f'<text x="{LEFT + width + 6:.0f}" y="{y}" class="v">{told}, {used.peak_mib:,.0f} MiB</text>')
        y += 2 * ROW
    style = (
        "text{font:13px sans-serif;fill:#222}.t{font-weight:bold}.n{text-anchor:end}.v{fill:#555}"
        ".o{fill:#1a73e8}.c{fill:#9aa0a6}.r{fill:#f29900}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDE + 150}" height="{y}" role="img">'
    title = "<title>CPU time of an object, in multiples of ours (logarithmic), and peak memory</title>"
    return f"{head}{title}<style>{style}</style>{''.join(lines)}</svg>\n"
