// The page "Turn the knobs": decodes codes in the reader's browser, beside what guide and NUTS say of an image.
// Everything it shows comes from explorer-data.js, which the build makes of results/explorer.quick.*.
(function () {
  "use strict";

  const root = document.getElementById("explorer");
  const models = {};
  let result;
  try {
    const { result: numbers, bin } = window.pyroVaesData;
    result = numbers;
    for (const [name, model] of Object.entries(result.models)) models[name] = unpacked(model, bin[name]);
  } catch (error) {
    const said = document.createElement("p");
    said.setAttribute("role", "alert");
    said.textContent = "The sliders cannot be shown: their data, explorer-data.js, are missing or damaged. Load the page again; " +
      "if that does not help, the pages have to be built again. The pictures at the end of the page show some of the same.";
    root.replaceChildren(said);
    console.error(error);
    return;
  }

  // ---- The decoder ---------------------------------------------------------------------------------------------

  function unpacked(model, base64) {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const tensors = {};
    for (const { name, type, shape, offset } of model.tensors) {
      const count = shape.reduce((a, b) => a * b, 1);
      if (type === "uint8") tensors[name] = bytes.subarray(offset, offset + count);
      else tensors[name] = Float32Array.from({ length: count }, (_, i) => view.getFloat32(offset + 4 * i, true));
      if (tensors[name].length < count || !tensors[name].every(Number.isFinite)) throw new Error(`${name} is no whole tensor`);
    }
    const layers = [];
    for (let i = 0; `weight ${i}` in tensors; i++) layers.push([tensors[`weight ${i}`], tensors[`bias ${i}`]]);
    return { ...model, tensors, layers, k: model.names.length, pixels: model.shape[0] * model.shape[1] };
  }

  const ACTIVATION = { tanh: Math.tanh, relu: (a) => Math.max(a, 0) };

  // What the last layer gives: the mean of a pixel is its sigmoid.
  function logits(model, z) {
    let h = z;
    model.layers.forEach(([weight, bias], layer) => {
      const out = new Float64Array(bias.length);
      for (let i = 0; i < out.length; i++) {
        let sum = bias[i];
        for (let j = 0; j < h.length; j++) sum += weight[i * h.length + j] * h[j];
        out[i] = layer < model.layers.length - 1 ? ACTIVATION[model.activation](sum) : sum;
      }
      h = out;
    });
    return h;
  }

  const sigmoid = (a) => 1 / (1 + Math.exp(-a));
  const decode = (name, z) => Array.from(logits(models[name], z), sigmoid);

  // log p(x, z) of an image that is shown, in nats.
  function logJoint(name, image, z) {
    const model = models[name];
    let sum = 0;
    for (const value of z) sum -= (value * value + Math.log(2 * Math.PI)) / 2;
    logits(model, z).forEach((a, i) => {
      const x = seen(model, image, i);
      if (model.likelihood === "Bernoulli") sum += x * a - Math.max(a, 0) - Math.log1p(Math.exp(-Math.abs(a)));
      else sum -= ((x - sigmoid(a)) / model.sd) ** 2 / 2 + Math.log(model.sd) + Math.log(2 * Math.PI) / 2;
    });
    return sum;
  }

  const seen = (model, image, pixel) => model.tensors.images[image * model.pixels + pixel] / 255;
  const drawOf = (model, image, s, j) =>
    model.tensors.draws[(image * result.settings.kept + s) * model.k + j];

  // ---- State ---------------------------------------------------------------------------------------------------

  const state = { model: Object.keys(models)[0], image: 0, z: [], zoom: false };
  const here = () => models[state.model];
  const chosen = () => here().images[state.image];

  function normal() {
    return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  }

  const CODES = {
    mean: () => chosen()["guide mean"].slice(),
    guide: () => chosen()["guide mean"].map((mean, j) => mean + chosen()["guide sd"][j] * normal()),
    nuts: () => {
      const s = Math.floor(Math.random() * result.settings.kept);
      return chosen()["guide mean"].map((_, j) => drawOf(here(), state.image, s, j));
    },
    prior: () => here().names.map(normal),
    zero: () => here().names.map(() => 0),
  };

  // ---- Building the page ---------------------------------------------------------------------------------------

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }

  function svg(tag, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function paint(canvas, model, pixel) {
    const [height, width] = model.shape;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const grey = Math.round(255 * pixel(i));
      image.data.set([grey, grey, grey, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }

  const ui = {
    thumbs: element("div", { class: "pv-thumbs", role: "group", "aria-label": "Test images" }),
    seen: element("canvas", { class: "pv-image", role: "img" }),
    decoded: element("canvas", { class: "pv-image", role: "img" }),
    seenCaption: element("figcaption"),
    decodedCaption: element("figcaption"),
    fit: element("p", { class: "pv-fit" }),
    verdict: element("p", { class: "pv-verdict", role: "status" }),
    pruned: element("p", { class: "pv-pruned" }),
    latents: element("div", { class: "pv-latents" }),
    numbers: element("div", { class: "pv-scroll", tabindex: "0", role: "region", "aria-label": "All numbers" }),
    rows: [],
  };

  const LABELS = { digits: "Digits", faces: "Faces" };

  function build() {
    const radios = Object.keys(models).map((name) =>
      element("label", {},
        element("input", { type: "radio", name: "pv-model", value: name, onchange: () => chooseModel(name) }),
        element("span", {}, LABELS[name] || name)));
    const button = (label, code, title) =>
      element("button", { type: "button", "data-code": code, title, onclick: () => setCode(CODES[code]()) }, label);
    root.replaceChildren(
      element("section", { class: "pv-choose" },
        element("h2", {}, "Choose an image"),
        element("div", { class: "pv-models", role: "radiogroup", "aria-label": "Model" }, ...radios),
        ui.thumbs),
      element("div", { class: "pv-main" },
        element("section", { class: "pv-left", "aria-label": "Pictures" },
          element("div", { class: "pv-pair" },
            element("figure", {}, ui.seen, ui.seenCaption),
            element("figure", {}, ui.decoded, ui.decodedCaption)),
          ui.fit),
        element("section", { class: "pv-right" },
          element("h2", {}, "Move the sliders"),
          element("div", { class: "pv-buttons" },
            button("Guide's mean", "mean", "the mean of q(z | x) of the chosen image"),
            button("Draw from the guide", "guide", "a code from q(z | x) of the chosen image"),
            button("Draw from NUTS", "nuts", "a code from p(z | x) of the chosen image"),
            button("Random code", "prior", "a code from p(z): no image in particular"),
            button("All zero", "zero", "the middle of the prior")),
          element("div", { class: "pv-legend" },
            key("nuts", "NUTS: draws of the posterior"), key("guide", "guide"), key("prior", "prior"),
            key("mark", "your slider"),
            element("label", { class: "pv-zoom" },
              element("input", { type: "checkbox", onchange: (event) => { state.zoom = event.target.checked; rows(); } }),
              " zoom in")),
          ui.latents,
          ui.pruned),
        element("section", { class: "pv-says" },
          element("h2", {}, "Do guide and NUTS agree here?"),
          ui.verdict)),
      element("details", {}, element("summary", {}, "All numbers of this image"), ui.numbers));
    chooseModel(state.model);
  }

  const key = (kind, text) => element("span", { class: "pv-key" }, element("i", { class: `pv-${kind}` }), text);

  // ---- What changes --------------------------------------------------------------------------------------------

  function chooseModel(name) {
    state.model = name;
    const model = here();
    root.querySelector(`input[value="${name}"]`).checked = true;
    ui.thumbs.replaceChildren(...model.images.map((image, i) => {
      const canvas = element("canvas", { "aria-hidden": "true" });
      paint(canvas, model, (pixel) => seen(model, i, pixel));
      return element("button", { type: "button", "aria-label": image.label, title: image.label, onclick: () => chooseImage(i) },
        canvas);
    }));
    const unused = model.names.filter((_, j) => !model.used[j]);
    ui.pruned.textContent = unused.length
      ? `${unused.join(", ")} ${unused.length > 1 ? "are" : "is"} pruned: the guide gives the prior back whatever ` +
        "the image, and the slider changes next to nothing."
      : "No latent is pruned in this pair: for each of them the posterior is narrower than the prior.";
    chooseImage(0);
  }

  function chooseImage(i) {
    state.image = i;
    const model = here();
    [...ui.thumbs.children].forEach((thumb, n) => thumb.setAttribute("aria-pressed", String(n === i)));
    paint(ui.seen, model, (pixel) => seen(model, i, pixel));
    ui.seen.setAttribute("aria-label", `The image that was seen: ${chosen().label}`);
    ui.decoded.setAttribute("aria-label", "The image that the sliders' code gives");
    ui.seenCaption.textContent = `Seen: ${chosen().label}`;
    ui.decodedCaption.textContent = "From the sliders";
    state.z = CODES.mean();
    rows();
    ui.verdict.replaceChildren(...verdict());
    numbers();
    update();
  }

  function setCode(z) {
    if (z.length !== here().k || !z.every(Number.isFinite)) throw new RangeError(`a code is ${here().k} finite numbers`);
    state.z = z.slice();
    ui.rows.forEach((row, j) => { row.input.value = String(z[j]); });
    update();
  }

  // Wide enough for every image's mean, and for -3..3, where nearly all codes of the prior lie.
  function range(j) {
    const image = chosen();
    if (state.zoom) {
      const lows = ["guide", "nuts"].map((who) => image[`${who} mean`][j] - 4 * image[`${who} sd`][j]);
      const highs = ["guide", "nuts"].map((who) => image[`${who} mean`][j] + 4 * image[`${who} sd`][j]);
      return [Math.min(...lows), Math.max(...highs)];
    }
    const most = Math.max(3, ...here().images.map((one) => Math.ceil(Math.abs(one["guide mean"][j]))));
    return [-most, most];
  }

  function rows() {
    const model = here();
    ui.rows = model.names.map((name, j) => {
      const [low, high] = range(j);
      const id = `pv-z${j}`;
      const input = element("input", { type: "range", id, min: low, max: high, step: (high - low) / 300,
        oninput: () => { state.z[j] = Number(input.value); update(); } });
      input.value = String(state.z[j]);
      const value = element("output", { for: id });
      const { plot, mark } = plotted(j, low, high);
      const ends = element("div", { class: "pv-ends", "aria-hidden": "true" },
        ...[low, (low + high) / 2, high].map((v) => element("span", {}, number(v, state.zoom ? 2 : 0))));
      const label = element("label", { for: id }, name, ...(model.used[j] ? [] : [element("small", {}, "pruned")]));
      const row = element("div", { class: "pv-latent" }, label, element("div", { class: "pv-track" }, plot, input, ends), value);
      return { input, value, mark, low, high, row };
    });
    ui.latents.replaceChildren(...ui.rows.map(({ row }) => row));
    update();
  }

  const WIDTH = 600, HEIGHT = 60;

  // Guide and NUTS share one scale of heights; the prior has its own, or next to narrow posteriors it would be a flat line.
  function plotted(j, low, high) {
    const image = chosen();
    const [mean, sd] = [image["guide mean"][j], image["guide sd"][j]];
    const x = (z) => ((z - low) / (high - low)) * WIDTH;
    const draws = Float64Array.from({ length: result.settings.kept }, (_, s) => drawOf(here(), state.image, s, j));
    const width = Math.max(image["nuts sd"][j] / 2, (high - low) / 150);
    const counts = new Map();
    for (const z of draws) counts.set(Math.floor(z / width), (counts.get(Math.floor(z / width)) || 0) + 1);
    const histogram = [...counts].map(([bin, count]) => [bin * width, count / (draws.length * width)]);
    const peak = 1 / (sd * Math.sqrt(2 * Math.PI));
    const top = Math.max(peak, ...histogram.map(([, height]) => height));
    const y = (height) => HEIGHT - 1 - (HEIGHT - 4) * height;
    const curve = (m, s, height) => {
      const points = [];
      for (let i = 0; i <= 120; i++) {
        const z = Math.max(low, m - 4 * s) + (i / 120) * (Math.min(high, m + 4 * s) - Math.max(low, m - 4 * s));
        points.push(`${x(z).toFixed(1)},${y(height * Math.exp(-(((z - m) / s) ** 2) / 2)).toFixed(2)}`);
      }
      return `M${points.join("L")}`;
    };
    const plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `${here().names[j]}: NUTS ${pm(image["nuts mean"][j], image["nuts sd"][j])}, guide ${pm(mean, sd)}` });
    const bars = histogram.map(([z, height]) =>
      `M${x(z).toFixed(1)},${y(0)}V${y(height / top).toFixed(2)}H${x(z + width).toFixed(1)}V${y(0)}Z`);
    plot.append(svg("path", { class: "pv-nuts", d: bars.join("") }),
      svg("path", { class: "pv-prior", d: curve(0, 1, 1) }),
      svg("path", { class: "pv-guide", d: curve(mean, sd, peak / top) }));
    const mark = svg("line", { class: "pv-mark", y1: 0, y2: HEIGHT });
    plot.append(mark);
    return { plot, mark };
  }

  function update() {
    const model = here();
    const mean = decode(state.model, state.z);
    paint(ui.decoded, model, (pixel) => mean[pixel]);
    ui.rows.forEach((row, j) => {
      row.value.textContent = number(state.z[j], 2);
      const place = ((state.z[j] - row.low) / (row.high - row.low)) * WIDTH;
      for (const end of ["x1", "x2"]) row.mark.setAttribute(end, Math.min(WIDTH, Math.max(0, place)).toFixed(1));
    });
    const fit = logJoint(state.model, state.image, state.z);
    const change = fit - logJoint(state.model, state.image, chosen()["guide mean"]);
    const than = Math.abs(change) < 0.05 ? "as at the guide's mean"
      : `${number(Math.abs(change), 1)} ${change > 0 ? "better" : "worse"} than at the guide's mean`;
    const pixel = model.likelihood === "Bernoulli" ? "A pixel is white with the decoded chance."
      : `A pixel is N(decoded, ${number(model.sd, 3)}²).`;
    ui.fit.replaceChildren(element("span", {}, "log p(x, z) of the seen image: "),
      element("b", {}, `${number(fit, 1)} nats`), element("span", {}, `, ${than}. ${pixel}`));
  }

  // ---- Words and numbers ---------------------------------------------------------------------------------------

  const number = (value, digits) => value.toFixed(digits).replace(/^-(0(\.0+)?)$/, "$1").replace("-", "−");
  const pm = (mean, sd) => `${number(mean, 2)} ± ${number(sd, sd < 0.1 ? 3 : 2)}`;
  const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
  };
  const VERDICTS = {
    good: "They agree.",
    caution: "They agree on most latents, not on all.",
    bad: "They do not agree.",
    "no reference": "Nobody knows: NUTS itself has not settled on this image.",
  };

  function verdict() {
    const image = chosen(), names = here().names;
    const head = element("b", { class: `pv-word pv-${image.verdict.replace(" ", "-")}` }, VERDICTS[image.verdict]);
    const worst = (values) => values.indexOf(Math.max(...values));
    const khat = image.khat <= result.limits.khat
      ? `k-hat is ${number(image.khat, 2)}, up to ${result.limits.khat}: importance weights can put the guide right.`
      : `k-hat is ${number(image.khat, 2)}, above ${result.limits.khat}: importance weights cannot be trusted to put the guide right.`;
    if (image.verdict === "no reference") {
      const j = worst(image.rhat);
      return [head, ` Its chains disagree on ${names[j]} (R-hat ${number(image.rhat[j], 2)}, which is 1 where they agree): ` +
        `there may be more than one way to explain this image. ${khat}`];
    }
    const off = image.bias.map(Math.abs), j = worst(off);
    return [head, ` The guide's mean is off by ${number(median(off), 2)} standard deviations for a typical latent ` +
      `(${number(off[j], 2)} for ${names[j]}), and its standard deviation is ${number(median(image.width), 2)} times that of ` +
      `NUTS (${number(Math.min(...image.width), 2)} to ${number(Math.max(...image.width), 2)}). ${khat}`];
  }

  function numbers() {
    const image = chosen();
    const columns = ["latent", "guide", "guide, weighted", "NUTS", "bias / sd", "sd ratio", "R-hat", "ESS"];
    const lines = here().names.map((name, j) => [name, pm(image["guide mean"][j], image["guide sd"][j]),
      pm(image["weighted mean"][j], image["weighted sd"][j]), pm(image["nuts mean"][j], image["nuts sd"][j]),
      number(image.bias[j], 2), number(image.width[j], 2), number(image.rhat[j], 2), number(image.ess[j], 0)]);
    ui.numbers.replaceChildren(element("table", {},
      element("thead", {}, element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...lines.map(([name, ...cells]) =>
        element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((cell) => element("td", {}, cell)))))),
      element("p", {}, `Mean ± standard deviation. Weighted: ${result.settings.draws.toLocaleString("en")} draws of the guide ` +
        `under smoothed importance weights, worth about ${number(image["importance ess"], 0)} of the posterior. ` +
        `NUTS: ${result.settings.chains} chains of ${result.settings.samples} draws; an ESS above their number means that ` +
        "successive draws lie on opposite sides of the mean."));
  }

  // The theme's header stays on top of the page: what stays in sight must stand below it.
  function below() {
    const header = document.querySelector(".bd-header");
    root.style.setProperty("--pv-top", `${header ? header.offsetHeight : 0}px`);
  }

  build();
  below();
  window.addEventListener("resize", below);
  window.pyroVaes = { decode, logJoint, models, state, chooseModel, chooseImage, setCode };
})();
