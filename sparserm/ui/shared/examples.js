// Text from users is set with textContent and never becomes markup.

const make = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
};
function example(one, colours) {
  const box = make('div', 'example');
  const meta = make('div', 'meta');
  const prompt = make('span', 'prompt', one.prompt);
  meta.append(make('span', 'peak', one.meta), prompt);
  const text = make('div', 'text');
  text.dir = 'auto';
  const more = make('button');
  more.type = 'button';
  const cut = one.start > 0 || one.end < one.tokens.length;
  const draw = whole => {
    box.classList.toggle('whole', whole);
    const [start, end] = whole ? [0, one.tokens.length] : [one.start, one.end];
    const spans = one.tokens.slice(start, end).map(([token, share, note]) => {
      const span = make('span', '', token);
      if (share) {
        const colour = share > 0 ? colours.up : colours.down;
        span.style.backgroundColor = `color-mix(in srgb, ${colour} ${Math.abs(share)}%, transparent)`;
        span.title = note;
      }
      return span;
    });
    if (start > 0) spans.unshift(make('span', '', '… '));
    if (end < one.tokens.length) spans.push(make('span', '', ' …'));
    text.replaceChildren(...spans);
    oneTabStop(text, spans);
    prompt.tabIndex = whole ? 0 : -1; // a long one scrolls
    more.textContent = whole ? 'Show less' : cut ? `Show all ${one.tokens.length} tokens` : 'Show the whole prompt';
    more.onclick = () => draw(!whole);
  };
  box.append(meta, text);
  draw(false);
  if (cut || one.prompt.length > 50 || one.prompt.includes('\n')) box.append(more);
  return box;
}
export default function ({ parentElement, data }) {
  const grid = parentElement.querySelector('.examples');
  const nodes = ['Chosen', 'Rejected'].map((side, i) => {
    const head = make('div', 'head', side);
    head.style.borderColor = [data.up, data.down][i];
    return head;
  });
  const none = [data.none, data.none]; // said once on each side
  for (const row of data.rows) {
    if (row.title) nodes.push(make('div', 'title', row.title));
    [row.chosen, row.rejected].forEach((one, side) => {
      nodes.push(one ? example(one, data) : make('div', 'none', none[side]));
      if (!one) none[side] = '';
    });
  }
  grid.replaceChildren(...nodes);
}
