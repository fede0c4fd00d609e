// The menu leads to the same page of another version, or to its first page where it has no such page.
// Which versions there are, newest first, and their pages: `versions`, from ../versions.js, which
// every build beside this one writes anew; without it, the menu holds this version alone.
document.addEventListener("DOMContentLoaded", () => {
  const root = new URL(document.documentElement.dataset.content_root, location.href);
  const page = location.href.slice(root.href.length).replace(/[?#].*/, "");
  const names = Object.keys(window.versions ?? {});
  for (const menu of document.querySelectorAll("select.versions")) {
    const here = menu.value;
    if (names.includes(here)) {
      menu.replaceChildren(...names.map((name) => new Option(name)));
    }
    menu.addEventListener("change", () => {
      const there = window.versions[menu.value].includes(page) ? page + location.hash : "index.html";
      location.href = new URL(`../${menu.value}/${there}`, root);
    });
    // Whoever comes back to this page finds its own version in the menu.
    const reset = () => { menu.value = here; };
    addEventListener("pageshow", reset);
    reset();
  }
});
