// Text from users is set with textContent and never becomes markup.

export default function ({ parentElement, data }) {
  const box = parentElement.querySelector('.tokens');
  const tokens = data.tokens.map(([text, share, note, pale]) => {
    const span = document.createElement('span');
    span.textContent = text;
    span.title = note;
    span.setAttribute('role', 'listitem');
    if (pale) span.classList.add('pale');
    if (text.includes('\n')) span.classList.add('break'); // nothing else would show its colour
    const colour = share > 0 ? data.up : data.down;
    span.style.backgroundColor = `color-mix(in srgb, ${colour} ${Math.abs(share)}%, transparent)`;
    return span;
  });
  box.replaceChildren(...tokens);
  oneTabStop(box, tokens);
}
