// The back button goes from page to page: Streamlit adds a step to the history whenever a page writes to its own link, and two
// page changes would need five presses. Such a step replaces the one before it.
export default function () {
  const { history } = window;
  if (history.fromPageToPage) return;
  const push = history.pushState.bind(history);
  history.pushState = (state, unused, url) => {
    const samePage = url === undefined || new URL(url, document.baseURI).pathname === window.location.pathname;
    if (samePage) history.replaceState(state, unused, url);
    else push(state, unused, url);
  };
  history.fromPageToPage = true;
}
