// Inside Airflow's frame: its colours, and links to Airflow's own pages. The frame's sandbox lets a page neither open a window nor
// leave the frame; a link of the page around it does.
if (window.parent !== window) {
  const around = window.parent.document;
  const follow = () => {
    document.documentElement.dataset.theme = around.documentElement.classList.contains("dark") ? "dark" : "light";
  };
  follow();
  new MutationObserver(follow).observe(around.documentElement, { attributes: true, attributeFilter: ["class"] });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-leaves]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const outer = around.createElement("a");
    outer.href = link.href;
    around.body.append(outer);
    outer.click();
    outer.remove();
  });
}
