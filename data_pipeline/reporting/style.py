"""Looks and manners of the page: plain CSS, and a few lines of JavaScript that sort and filter the table of videos."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #6a7076; --line: #d9dcdf; --paper: #fdfdfc; --ground: #eceef0;
  --kept: #1f6f8b; --lost: #d99a6c; --good: #23733a; --bad: #a63a2b; --alarm: #fbe9e6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --soft: #9aa1a8; --line: #3a3f45; --paper: #17191b; --ground: #26292d; --kept: #4aa3c2;
    --lost: #9c6a44; --good: #6cc283; --bad: #e58a7c; --alarm: #3a211d; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1120px;
  margin: 2.5rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2, h3 { break-after: avoid; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { margin: .4rem 0; }
p.lead { font-size: 1.2rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.banner { border-left: 5px solid var(--bad); background: var(--alarm); padding: .6rem .9rem; margin: 1rem 0; }
.banner strong { color: var(--bad); }
code { font-size: .92em; }
a { color: var(--kept); }
figure { margin: .6rem 0 1.4rem; break-inside: avoid; }
figure img { max-width: 100%; height: auto; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 500; font-size: .85rem; color: var(--soft); vertical-align: bottom; }
td.n, th.n { text-align: right; white-space: nowrap; }
td code { white-space: nowrap; }
td .soft { font-size: inherit; }
bdi { overflow-wrap: anywhere; }
tr { break-inside: avoid; }
tr:target { background: var(--alarm); }
.ok { color: var(--good); } .no { color: var(--bad); font-weight: 600; }
.unit { color: var(--soft); font-size: .88rem; border-bottom: 1px solid var(--line); margin: .6rem 0 .3rem; }
.step { display: grid; grid-template: "label bar n" "none why why" / 13rem 1fr 11rem; gap: .1rem .9rem; align-items: center;
  padding-bottom: .4rem; break-inside: avoid; }
.step .label { grid-area: label; } .step .bar { grid-area: bar; }
.step .n { grid-area: n; text-align: right; font-variant-numeric: tabular-nums; }
.step .why { grid-area: why; color: var(--soft); font-size: .88rem; }
svg.bar { display: block; width: 100%; height: 1.25rem; }
svg .kept { fill: var(--kept); } svg .lost { fill: var(--lost); } svg .ground { fill: var(--ground); }
td svg.bar { width: 8rem; height: .8rem; margin-top: .35rem; }
.key::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .35em; background: var(--kept); }
.key.lost::before { background: var(--lost); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: .4rem 2rem; }
.plots h3 { margin: .6rem 0 0; font-size: .95rem; }
svg.histogram { display: block; width: 100%; height: auto; }
svg text { font: 10px system-ui, sans-serif; fill: var(--soft); }
svg .axis { stroke: var(--line); } svg .limit { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 4 3; }
.controls { display: flex; flex-wrap: wrap; gap: .6rem; margin: .6rem 0; align-items: baseline; }
.controls input, .controls select { font: inherit; padding: .25rem .5rem; }
#videos th { cursor: pointer; user-select: none; }
#videos { font-size: .85rem; }
#videos td:first-child { min-width: 15rem; } #videos td:nth-child(2) { min-width: 15rem; }
#videos td:last-child, #videos .n { white-space: nowrap; }
.reasons td:nth-child(3) { min-width: 13rem; }
#videos tr.none td:first-child { border-left: 3px solid var(--lost); padding-left: .5rem; }
#videos tr.quarantined td:first-child { border-left: 3px solid var(--bad); padding-left: .5rem; }
#videos tr.kept td:first-child { border-left: 3px solid var(--kept); padding-left: .5rem; }
@media (max-width: 640px) {
  body { margin-top: 1rem; }
  .step { grid-template: "label n" "bar bar" "why why" / 1fr auto; }
  .reasons th:nth-child(2), .reasons td:nth-child(2) { display: none; } }
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --ground: #eee; --kept: #1f6f8b; --lost: #d99a6c; --line: #ccc;
    --soft: #555; }
  body { font-size: 10pt; max-width: none; margin: 0; } .controls { display: none; } .wide { overflow: visible; }
  #videos { font-size: 7pt; } #videos td:nth-child(-n+2) { min-width: 11rem; }
  #videos :is(th, td):is(:nth-child(5), :nth-child(8), :nth-child(9), :nth-child(12)) { display: none; }
  svg { print-color-adjust: exact; } }
"""

SCRIPT = """
(() => {
  const body = document.querySelector('#videos tbody'), find = document.getElementById('find');
  const state = document.getElementById('state'), shown = document.getElementById('shown');
  if (!body) return;
  const rows = [...body.rows].map(row => [row, row.textContent.toLowerCase()]);
  const filter = () => {
    const wanted = find.value.toLowerCase();
    let n = 0;
    for (const [row, words] of rows) {
      row.hidden = !(words.includes(wanted) && (!state.value || row.classList.contains(state.value)));
      n += !row.hidden;
    }
    shown.textContent = n + ' shown';
  };
  find.addEventListener('input', filter);
  state.addEventListener('change', filter);
  const value = (row, i) => row.cells[i].dataset.v ?? row.cells[i].textContent;
  document.querySelectorAll('#videos th').forEach((head, i) => head.addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') === 'descending' ? 1 : -1;
    document.querySelectorAll('#videos th').forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', up === 1 ? 'ascending' : 'descending');
    const plain = head.classList.contains('n');
    const order = (a, b) => plain ? (Number(a || -1) - Number(b || -1)) : a.localeCompare(b);
    body.append(...[...body.rows].sort((a, b) => up * order(value(a, i), value(b, i))));
  }));
  filter();
})();
"""
