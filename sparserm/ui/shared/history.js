// The back button goes from page to page: Streamlit adds a step to the history whenever a page writes to its own link, and two
// page changes would need five presses. Such a step replaces the one before it.
export default function () {
  const { history } = window;
  if (history.fromPageToPage) return;
  history.fromPageToPage = true;
  const push = history.pushState.bind(history);
  let left = null; // the link that was first replaced since the last click, and the query that replaced it last
  document.addEventListener(
    'click',
    () => {
      left = null;
    },
    true,
  );
  history.pushState = (state, unused, url) => {
    const to = new URL(url ?? window.location.href, document.baseURI);
    if (to.pathname === window.location.pathname) {
      left = { link: left?.link ?? window.location.href, query: to.search };
      history.replaceState(state, unused, url);
      return;
    }
    // On the way to another page Streamlit writes that page's query into the link of this one first, step by step on a busy
    // machine.
    if (left?.query === to.search) history.replaceState(history.state, unused, left.link);
    push(state, unused, url);
  };
}
