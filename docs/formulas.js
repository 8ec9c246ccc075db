// Formulas between dollar signs, after every page that the theme loads.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".arithmatex"))
    window.katex && katex.render(element.textContent.replace(/^\\[([]|\\[)\]]$/g, ""), element, {
      displayMode: element.tagName === "DIV",
    });
});
