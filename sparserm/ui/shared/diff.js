// Text from users is set with textContent and never becomes markup.

export default function ({ parentElement, data }) {
  parentElement.querySelector('.diff').replaceChildren(
    ...data.spans.map(([side, text]) => {
      const node = document.createElement({ both: 'span', a: 'del', b: 'ins' }[side]);
      node.textContent = text;
      return node;
    }),
  );
}
