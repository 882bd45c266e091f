// Text from users is set with textContent and never becomes markup.

export default function ({ parentElement, data }) {
  const box = parentElement.querySelector('.chips');
  const chips = data.chips.map(([text, share, note]) => {
    const chip = document.createElement('span');
    chip.textContent = text;
    chip.title = note;
    chip.setAttribute('role', 'listitem');
    chip.style.backgroundColor = `color-mix(in srgb, ${data.colour} ${share}%, transparent)`;
    return chip;
  });
  box.replaceChildren(...chips);
  oneTabStop(box, chips);
}
