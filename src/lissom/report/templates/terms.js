// Words that are explained: pointed at, focused or tapped, each shows what the glossary says.
{
  const says = document.createElement("div");
  says.className = "tip says";
  says.setAttribute("role", "tooltip");
  says.hidden = true;
  document.body.append(says);
  const show = (event) => {
    const word = event.target.closest && event.target.closest(".term");
    const meaning = word && document.getElementById(word.getAttribute("aria-describedby"));
    says.hidden = !meaning;
    if (!meaning) return;
    says.textContent = meaning.textContent;
    const at = word.getBoundingClientRect(), wide = document.documentElement.clientWidth;
    const below = at.bottom + 6 + says.offsetHeight < innerHeight;
    says.style.left = Math.max(8, Math.min(at.left, wide - says.offsetWidth - 8)) + "px";
    says.style.top = (below ? at.bottom + 6 : Math.max(8, at.top - 6 - says.offsetHeight)) + "px";
  };
  const hide = () => { says.hidden = true; };
  for (const event of ["mouseover", "focusin", "click"]) document.addEventListener(event, show);
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, true);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}
