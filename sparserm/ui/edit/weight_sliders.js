// Labels are text from users: they are set with textContent and never become markup.
// Rows are created once and then updated in place, so that a slider moved with the keyboard keeps its focus.

const HEADINGS = [
  ['Feature', 'Largest |weight| first'],
  ['Weight', 'Weight on the standardised alignment score; dashed: before the edit'],
  ['Factor on the weight', '0 switches the feature off, −1 flips its sign; double-click to reset it to 1'],
  ['', ''],
  ['', ''],
  ['Chosen / rejected', 'Firing rate: share of chosen / rejected training responses in which the latent is active'],
  ['Gap', 'Firing rate in chosen minus rejected responses, in percentage points'],
  ['Length', 'Spearman correlation of the contribution to the margin with the difference in log length, on held-out pairs'],
  ['Without it', 'Ablation: change in held-out accuracy without this feature, in percentage points'],
];
const el = (tag, cls, text) => {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  return e;
};
const signed = (x, digits) => (x === null ? '–' : (x > 0 ? '+' : x < 0 ? '−' : '') + Math.abs(x).toFixed(digits));

function makeRow(state, feature) {
  const row = { el: el('div', 'row'), feature };
  row.name = el('span', 'name');
  const weight = el('span', 'weight'),
    bar = el('span', 'bar');
  row.was = bar.appendChild(el('i', 'was'));
  row.now = bar.appendChild(el('i'));
  row.number = el('span', 'n');
  weight.append(bar, row.number);
  const slider = el('span', 'slider'),
    ticks = el('span', 'ticks'),
    { low, high, step } = state.data;
  row.input = el('input');
  Object.assign(row.input, { type: 'range', min: low, max: high, step });
  row.input.setAttribute('aria-label', `factor of feature ${feature}`);
  for (const at of [-1, 0, 1, 2]) {
    ticks.appendChild(el('i')).style.left = `${(100 * (at - low)) / (high - low)}%`;
  }
  slider.append(row.input, ticks);
  row.factor = el('span', 'n');
  const buttons = el('span', 'buttons');
  const button = (text, title, factor) => {
    const b = buttons.appendChild(el('button', '', text));
    b.title = title;
    b.setAttribute('aria-label', `${title}: feature ${feature}`);
    b.onclick = () => send(factor === row.value ? 1 : factor);
    return b;
  };
  row.off = button('off', 'switch off', 0);
  row.flip = button('flip', 'flip the sign', -1);
  row.reset = button('↺', 'set to 1', 1);
  [row.fires, row.gap, row.length, row.without] = HEADINGS.slice(5).map(([text]) => {
    const cell = el('span', 'n');
    cell.dataset.of = text; // its heading where a row has several lines
    return cell;
  });
  row.el.append(row.name, weight, slider, row.factor, buttons, row.fires, row.gap, row.length, row.without);
  const send = factor => {
    clearTimeout(row.timer);
    show(state, row, factor);
    state.send('edit', { feature, factor });
  };
  row.input.oninput = () => show(state, row, Number(row.input.value));
  row.input.onkeydown = () => {
    row.keys = true;
  };
  row.input.onpointerdown = () => {
    row.keys = false;
  };
  row.input.onchange = () => {
    // held keys send only the last value
    clearTimeout(row.timer);
    const value = Number(row.input.value);
    if (row.keys) row.timer = setTimeout(() => send(value), 250);
    else send(value);
  };
  row.input.ondblclick = () => send(1);
  return row;
}

function place(bar, weight, full, colour) {
  const share = 50 * Math.min(1, Math.abs(weight) / full);
  bar.style.left = `${weight < 0 ? 50 - share : 50}%`;
  bar.style.width = `${share}%`;
  if (colour) bar.style.background = colour;
}

function show(state, row, factor) {
  const { up, down, full } = state.data,
    weight = row.data.weight * factor;
  row.value = factor;
  row.input.value = factor;
  row.input.setAttribute('aria-valuetext', `${factor.toFixed(2)} times`);
  row.factor.textContent = `× ${factor.toFixed(2).replace('-', '−')}`;
  row.number.textContent = signed(weight, 2);
  place(row.now, weight, full, weight > 0 ? up : down);
  place(row.was, row.data.weight, full);
  row.was.style.display = factor === 1 ? 'none' : '';
  row.off.setAttribute('aria-pressed', factor === 0);
  row.flip.setAttribute('aria-pressed', factor === -1);
  row.reset.disabled = factor === 1;
  const asked = row.feature === state.data.asked;
  row.el.className = `row${factor === 1 ? '' : ' edited'}${factor === 0 ? ' off' : ''}${asked ? ' asked' : ''}`;
}

function update(state, row, data) {
  row.data = data;
  const id = el('a', 'id', data.label ? data.feature : `feature ${data.feature}`);
  id.title = 'Open the feature card in a new tab';
  Object.assign(id, { href: state.data.card + data.feature, target: '_blank' });
  const line = el('span', 'line');
  line.append(...(data.label ? [el('bdi', '', data.label), id] : [id]));
  row.name.replaceChildren(line);
  if (data.family) {
    const others = data.family.split(' · ').filter(one => one !== String(data.feature));
    row.name.append(el('span', 'with', `fires with ${others.join(' · ')}`));
  }
  row.name.title = data.label;
  row.fires.textContent = `${(100 * data.chosen).toFixed(0)}% / ${(100 * data.rejected).toFixed(0)}%`;
  const gap = data.chosen - data.rejected,
    { up, down } = state.data;
  row.gap.textContent = signed(100 * gap, 1);
  row.gap.style.color = gap ? `color-mix(in srgb, ${gap > 0 ? up : down} 68%, var(--st-text-color))` : '';
  row.length.textContent = signed(data.length, 2);
  row.without.textContent = signed(data.without === null ? null : 100 * data.without, 1);
  show(state, row, data.factor);
}

export default function ({ parentElement, data, setTriggerValue }) {
  const box = parentElement.querySelector('.box');
  box.state ??= {};
  const state = box.state;
  state.data = data;
  state.send = setTriggerValue;
  const features = data.rows.map(row => row.feature).join();
  if (state.features !== features) {
    state.features = features;
    const head = el('div', 'row head');
    HEADINGS.forEach(([text, title], i) => {
      const cell = head.appendChild(el('span', i > 4 ? 'n' : '', text));
      if (title) cell.title = title;
    });
    state.rows = data.rows.map(row => makeRow(state, row.feature));
    box.replaceChildren(head, ...state.rows.map(row => row.el));
  }
  data.rows.forEach((row, i) => {
    update(state, state.rows[i], row);
  });
  if (state.asked !== data.asked) {
    state.asked = data.asked;
    state.rows.find(row => row.feature === data.asked)?.el.scrollIntoView({ block: 'center' });
  }
}
