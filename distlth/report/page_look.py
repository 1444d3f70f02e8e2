"""The style sheet and the script of a report's page."""

STYLE = """
:root { --ink: #1f2933; --muted: #52606d; --line: #d9dee4; --accent: #1d4e89; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; background: #fff; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
p { margin: .4rem 0; } .muted { color: var(--muted); font-size: .92rem; max-width: 60rem; }
.verdict { font-size: 1.1rem; }
fieldset { border: 0; padding: 0; margin: .5rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; }
legend { float: left; margin-right: 1rem; color: var(--muted); } .setting legend { width: 100%; }
label { cursor: pointer; } input { accent-color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
figure { margin: .6rem 0; } figure svg { width: 100%; max-width: 54rem; height: auto; }
figure img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem 1.1rem .2rem 0; text-align: right; white-space: nowrap; }
th { color: var(--muted); font-weight: 600; border-bottom: 1px solid var(--line); vertical-align: bottom;
  white-space: normal; max-width: 7rem; }
tbody tr:hover { background: #f5f7f9; }
.word { text-align: left; }
pre { background: #f5f7f9; padding: .8rem; overflow-x: auto; font-size: .85rem; }
code { overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
@page { margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .screen, input, fieldset:not(.methods), summary { display: none; }
  [data-axis][hidden] { display: block; }
  h2, h3 { break-after: avoid; } figure, tr, fieldset { break-inside: avoid; }
  .scroll { overflow: visible; } table { font-size: 7.5pt; } th, td { padding-right: .5rem; }
  pre { white-space: pre-wrap; font-size: 7pt; } thead { display: table-header-group; }
}
"""

SCRIPT = """
const axes = [...document.querySelectorAll('[name=axis]')];
const methods = [...document.querySelectorAll('[name=method]')];
const folded = [...document.querySelectorAll('details')];
function show() {
  const chosen = axes.find(axis => axis.checked).value;
  for (const panel of document.querySelectorAll('[data-axis]')) panel.hidden = panel.dataset.axis !== chosen;
  const hidden = new Set(methods.filter(method => !method.checked).map(method => method.value));
  for (const part of document.querySelectorAll('[data-method]'))
    part.style.display = hidden.has(part.dataset.method) ? 'none' : '';
}
for (const input of [...axes, ...methods]) input.addEventListener('change', show);
function reach() {
  for (const table of document.querySelectorAll('.scroll'))
    if (table.scrollWidth > table.clientWidth) table.setAttribute('tabindex', '0');
    else table.removeAttribute('tabindex');
}
addEventListener('resize', reach);
for (const each of folded) each.addEventListener('toggle', reach);
for (const axis of axes) axis.addEventListener('change', reach);
let open = [];
addEventListener('beforeprint', () => {
  open = folded.map(each => each.open);
  for (const each of folded) each.open = true;
});
addEventListener('afterprint', () => folded.forEach((each, index) => { each.open = open[index]; }));
show();
reach();
"""
