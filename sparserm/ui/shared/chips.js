// Text from users is set with textContent and never becomes markup.

export default function ({ parentElement, data }) {
  parentElement.querySelector('.chips').replaceChildren(
    ...data.chips.map(([text, share, note]) => {
      const chip = document.createElement('span');
      chip.textContent = text;
      chip.title = note;
      chip.setAttribute('role', 'listitem');
      chip.style.backgroundColor = `color-mix(in srgb, ${data.colour} ${share}%, transparent)`;
      return chip;
    }),
  );
}
