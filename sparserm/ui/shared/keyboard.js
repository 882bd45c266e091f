// Stands before the JavaScript of every component.

// Gives nodes one tab stop; arrow keys, Home and End move among them. The title of the node in focus is shown below `list`.
export function oneTabStop(list, nodes) {
  const note = document.createElement('p');
  note.className = 'note';
  note.setAttribute('aria-hidden', true); // the title is read aloud with the node
  if (list.nextElementSibling?.className === 'note') list.nextElementSibling.remove();
  list.after(note);
  nodes.forEach((node, i) => {
    node.tabIndex = i ? -1 : 0;
    node.onfocus = () => {
      if (node.matches(':focus-visible')) note.textContent = node.title;
    };
    node.onblur = () => {
      note.textContent = '';
    };
    node.onkeydown = event => {
      const ahead = event.key === 'ArrowRight' || event.key === 'ArrowDown';
      const back = event.key === 'ArrowLeft' || event.key === 'ArrowUp';
      const to = nodes[{ Home: 0, End: nodes.length - 1 }[event.key] ?? (ahead ? i + 1 : back ? i - 1 : -1)];
      if (!to) return;
      event.preventDefault();
      node.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    };
  });
}
