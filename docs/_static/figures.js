// A figure opens in full when it is clicked: a page is narrower than a table of curves.
for (const image of document.querySelectorAll("article img:not(a img, button img, .sd-card img)")) {
  const link = document.createElement("a");
  link.href = image.src;
  image.replaceWith(link);
  link.append(image);
}
