"""JavaScript that measures the contrast of a page's texts."""

MEASURES = """
for (const change of document.getAnimations()) {
  if (change.effect.getComputedTiming().endTime < Infinity) change.finish();
}
const shade = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = (text) => {
  shade.clearRect(0, 0, 1, 1); shade.fillStyle = text; shade.fillRect(0, 0, 1, 1);
  return [...shade.getImageData(0, 0, 1, 1).data];
};
const light = (rgb) => {
  const parts = rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const over = (top, base) =>
  base.map((v, i) => i < 3 ? top[i] * top[3] / 255 + v * (1 - top[3] / 255) : 255);
const above = (node) => {
  const found = [];
  for (let at = node; at; at = at.parentElement) found.push(at);
  return found;
};
const behind = (node) => above(node).reverse()
  .map((each) => rgba(getComputedStyle(each).backgroundColor))
  .reduce((base, top) => over(top, base), [255, 255, 255, 255]);
const contrast = (ink, ground) => {
  const [a, b] = [light(ink), light(ground)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
};
const seen = {opacityProperty: true, visibilityProperty: true};
const faint = {};
for (const node of document.querySelectorAll('body *')) {
  const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
  if (!own || !node.checkVisibility(seen) || node.closest('.hidden, script, style')) continue;
  const style = getComputedStyle(node);
  const ink = rgba(node.closest('svg') ? style.fill : style.color), ground = behind(node);
  ink[3] *= above(node).reduce((all, each) => all * getComputedStyle(each).opacity, 1);
  const ratio = contrast(over(ink, ground), ground);
  const key = node.tagName + '.' + node.getAttribute('class');
  if (ratio < 4.5) faint[key] = ratio.toFixed(2);
}
"""
"""Ends transitions and defines `faint`: the texts whose contrast to their background is below what
WCAG 2.2 AA requires."""
TEXTS = f"(() => {{ {MEASURES} return faint; }})()"
