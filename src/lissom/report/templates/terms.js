// Words that are explained: pointed at, focused or tapped, each shows what the glossary says.
{
  const says = document.createElement("div");
  says.className = "tip says";
  says.setAttribute("role", "tooltip");
  says.hidden = true;
  document.body.append(says);
  let word = null, read = null; // read: has the focus, and was sent away by Escape
  const place = () => {
    const at = word.getBoundingClientRect(), wide = document.documentElement.clientWidth;
    const below = at.bottom + 6 + says.offsetHeight < innerHeight;
    says.style.left = Math.max(8, Math.min(at.left, wide - says.offsetWidth - 8)) + "px";
    says.style.top = (below ? at.bottom + 6 : Math.max(8, at.top - 6 - says.offsetHeight)) + "px";
  };
  const hide = () => { word = null; says.hidden = true; };
  const show = (event) => {
    const focused = document.activeElement; // by keys: a mouse that rests does not end it
    word = event.target.closest(".term") || (focused !== read && focused.matches(".term:focus-visible") ? focused : null);
    const meaning = word && document.getElementById(word.getAttribute("aria-describedby"));
    if (!meaning) return hide();
    says.textContent = meaning.textContent;
    says.hidden = false;
    place();
  };
  document.addEventListener("focusin", () => { read = null; });
  for (const event of ["mouseover", "focusin", "click"]) document.addEventListener(event, show);
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", () => { if (word) place(); }, true); // it goes along
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { read = document.activeElement; hide(); } });
}
