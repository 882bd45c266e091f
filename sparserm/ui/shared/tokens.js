// Text from users is set with textContent and never becomes markup.

function makeClickable(span, place, box, { picked }, pick) {
  span.tabIndex = place === (picked ?? 0) ? 0 : -1; // one stop of the Tab key; arrows move within the text
  span.setAttribute('role', 'button');
  span.setAttribute('aria-pressed', String(place === picked));
  span.onclick = () => pick(place);
  span.onkeydown = event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === 'Enter' || event.key === ' ') pick(place);
    else if (step) box.children[place + step]?.focus();
    else return;
    event.preventDefault();
  };
}

export default function ({ parentElement, data, setTriggerValue }) {
  const box = parentElement.querySelector('.tokens');
  box.classList.toggle('clickable', data.clickable);
  box.setAttribute('role', data.clickable ? 'group' : 'list');
  box.replaceChildren(
    ...data.tokens.map(([text, share, note, pale], place) => {
      const span = document.createElement('span');
      span.textContent = text;
      span.title = note;
      span.setAttribute('role', 'listitem');
      if (data.clickable) makeClickable(span, place, box, data, token => setTriggerValue('pick', token));
      if (pale) span.classList.add('pale');
      if (text.includes('\n')) span.classList.add('break'); // nothing else would show its colour
      const colour = share > 0 ? data.up : data.down;
      span.style.backgroundColor = `color-mix(in srgb, ${colour} ${Math.abs(share)}%, transparent)`;
      return span;
    }),
  );
}
