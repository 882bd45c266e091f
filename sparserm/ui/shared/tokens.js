// Text from users is set with textContent and never becomes markup.

export default function ({ parentElement, data }) {
  const box = parentElement.querySelector('.tokens');
  box.replaceChildren(
    ...data.tokens.map(([text, share, note, pale]) => {
      const span = document.createElement('span');
      span.textContent = text;
      span.title = note;
      span.setAttribute('role', 'listitem');
      if (pale) span.className = 'pale';
      const colour = share > 0 ? data.up : data.down;
      span.style.backgroundColor = `color-mix(in srgb, ${colour} ${Math.abs(share)}%, transparent)`;
      return span;
    }),
  );
}
