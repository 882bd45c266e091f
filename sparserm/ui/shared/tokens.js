// Text from users is set with textContent and never becomes markup.

function makeClickable(span, place, picked, pick) {
  span.setAttribute('role', 'button');
  span.setAttribute('aria-pressed', String(place === picked));
  span.onclick = () => pick(place);
  span.addEventListener('keydown', event => {
    if (event.key !== 'Enter' && event.key !== ' ') return;
    pick(place);
    event.preventDefault();
  });
}

export default function ({ parentElement, data, setTriggerValue }) {
  const box = parentElement.querySelector('.tokens');
  box.classList.toggle('clickable', data.clickable);
  box.setAttribute('role', data.clickable ? 'group' : 'list');
  const tokens = data.tokens.map(([text, share, note, pale], place) => {
    const span = document.createElement('span');
    span.textContent = text;
    span.title = note;
    span.setAttribute('role', 'listitem');
    if (data.clickable) makeClickable(span, place, data.picked, token => setTriggerValue('pick', token));
    if (pale) span.classList.add('pale');
    if (text.includes('\n')) span.classList.add('break'); // nothing else would show its colour
    const colour = share > 0 ? data.up : data.down;
    span.style.backgroundColor = `color-mix(in srgb, ${colour} ${Math.abs(share)}%, transparent)`;
    return span;
  });
  box.replaceChildren(...tokens);
  oneTabStop(box, tokens);
}
