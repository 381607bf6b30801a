"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const dark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

  // Viridis from 0.12 to 0.92, as in the figures; a dark page uses lighter colours.
  const VIRIDIS = [[71, 42, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [199, 224, 32]];
  const CLASSES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b2a600"];
  const ramp = (u) => {
    const position = Math.min(Math.max(u, 0), 1) * (VIRIDIS.length - 1);
    const i = Math.min(Math.floor(position), VIRIDIS.length - 2);
    const lift = dark() ? 30 : 0;
    const mix = VIRIDIS[i].map((a, k) => Math.min(255, Math.round(a + (VIRIDIS[i + 1][k] - a) * (position - i)) + lift));
    return `rgb(${mix.join(",")})`;
  };

  byId("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    if (show) show();
  });
  for (const button of document.querySelectorAll(".larger")) {
    button.addEventListener("click", () => {
      const large = button.closest("section").querySelector(".picture").classList.toggle("large");
      button.setAttribute("aria-pressed", String(large));
      button.textContent = large ? "Reduce" : "Enlarge";
    });
  }

  let show = null;
  const source = byId("data");
  if (!source) return;
  const runs = JSON.parse(source.textContent).map((run) => {
    const bytes = Uint8Array.from(atob(run.cloud), (c) => c.charCodeAt(0));
    return { ...run, cloud: new Int16Array(bytes.buffer) };
  });
  const slider = byId("moment"), turn = byId("turn"), play = byId("play"), canvas = byId("cloud");
  let run = runs[0];

  const SVG = "http://www.w3.org/2000/svg";
  const add = (parent, name, attributes, text) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const W = 400, H = 325, LEFT = 46, RIGHT = 10, TOP = 10, BOTTOM = 40;

  // Draw a chart with steps on a logarithmic axis; return a function that moves its cursor to a step.
  const chart = (svg, curves, top) => {
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    const first = Math.max(1, run.steps.find((s) => s > 0)), last = run.steps[run.steps.length - 1];
    const from = Math.max(first, Math.min(...run.stepTimes, last) / 12);
    const x = (s) => LEFT + (W - LEFT - RIGHT) * Math.log(Math.max(s, from) / from) / Math.log(last / from);
    const y = (v) => H - BOTTOM - (H - TOP - BOTTOM) * Math.max(0, v) / top;
    add(svg, "line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: y(0), y2: y(0) });
    add(svg, "line", { class: "axis", x1: LEFT, x2: LEFT, y1: TOP, y2: y(0) });
    const unit = 10 ** Math.floor(Math.log10(top / 2)), every = [1, 2, 5, 10].map((k) => k * unit).find((s) => top / s <= 5);
    for (let v = 0; v <= top; v += every) {
      add(svg, "text", { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, Number(v.toPrecision(3)).toString());
    }
    for (let p = Math.ceil(Math.log10(from)); p <= Math.log10(last); p++) {
      add(svg, "text", { x: x(10 ** p), y: H - 22, "text-anchor": "middle" }, (10 ** p).toLocaleString("en"));
    }
    add(svg, "text", { x: (LEFT + W - RIGHT) / 2, y: H - 6, "text-anchor": "middle" }, "step");
    for (const { values, colour, dashed } of curves) {
      let path = "";
      values.forEach((v, i) => {
        if (v === null || run.steps[i] < from) return;
        path += `${path ? "L" : "M"}${x(run.steps[i]).toFixed(1)} ${y(v).toFixed(1)}`;
      });
      const look = dashed ? { "stroke-dasharray": "5 3", "stroke-width": 1.2 } : { "stroke-width": 2 };
      add(svg, "path", { d: path, fill: "none", stroke: colour, ...look });
    }
    const now = add(svg, "line", { class: "now", y1: TOP, y2: y(0) });
    return (step) => { now.setAttribute("x1", x(step)); now.setAttribute("x2", x(step)); };
  };

  let cursors = [];
  const charts = () => {
    const style = getComputedStyle(root), ink = style.getPropertyValue("--ink").trim();
    const most = (rows) => Math.max(...rows.flat().filter((v) => v !== null));
    const d = run.eigenvalues.length;
    const solid = run.eigenvalues.map((values, j) => ({ values, colour: ramp(d > 1 ? j / (d - 1) : 0) }));
    const dashed = run.theory ? run.theory.eigenvalues.map((values) => ({ values, colour: ink, dashed: true })) : [];
    const loss = [{ values: run.loss, colour: style.getPropertyValue("--curve").trim() }];
    if (run.theory) loss.push({ values: run.theory.loss, colour: ink, dashed: true });
    cursors = [
      chart(byId("loss"), loss, most([run.loss]) * 1.05),
      chart(byId("eigenvalues"), [...solid, ...dashed], most(run.eigenvalues) * 1.05),
    ];
  };

  const cloud = (moment) => {
    const context = canvas.getContext("2d"), n = run.points;
    const width = canvas.width, height = canvas.height, scale = Math.min(width, height) * 0.4 / 32767;
    const angle = turn.value * Math.PI / 180, tilt = 0.42;
    const style = getComputedStyle(root);
    const project = (a, b, c) => {
      const across = a * Math.cos(angle) - b * Math.sin(angle), deep = a * Math.sin(angle) + b * Math.cos(angle);
      return [width / 2 + across * scale, height / 2 - (c * Math.cos(tilt) + deep * Math.sin(tilt) * 0.8) * scale, deep];
    };
    context.clearRect(0, 0, width, height);
    context.lineWidth = 2;
    context.font = "20px system-ui, sans-serif";
    context.strokeStyle = style.getPropertyValue("--line").trim();
    context.fillStyle = style.getPropertyValue("--soft").trim();
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]].forEach((axis, k) => {
      const end = axis.map((v) => v * 32767 * 1.12), [x1, y1] = project(...end.map((v) => -v)), [x2, y2] = project(...end);
      context.beginPath(); context.moveTo(x1, y1); context.lineTo(x2, y2); context.stroke();
      context.fillText(String(k + 1), x2 + 6, y2 + 6);
    });
    const points = [];
    for (let i = 0; i < n; i++) {
      const start = 3 * (moment * n + i);
      points.push([...project(run.cloud[start], run.cloud[start + 1], run.cloud[start + 2]), i]);
    }
    points.sort((p, q) => q[2] - p[2]);
    context.globalAlpha = 0.8;
    for (const [px, py, , i] of points) {
      context.fillStyle = run.classes.length ? CLASSES[run.colours[i] % CLASSES.length] : ramp(run.colours[i]);
      context.beginPath(); context.arc(px, py, 4.5, 0, 7); context.fill();
    }
    context.globalAlpha = 1;
  };

  const SHAPES = ["a point", "a line", "a plane", "a solid of three dimensions"];
  const draw = () => {
    const moment = Number(slider.value), step = run.moments[moment];
    cursors.forEach((move) => move(step));
    cloud(moment);
    const learned = run.stepTimes.filter((t) => t <= step).length, modes = run.eigenvalues.length;
    let i = 0;
    run.steps.forEach((s, k) => { if (s <= step) i = k; });
    const loss = run.loss[i] === null ? "not finite" : run.loss[i].toPrecision(3);
    const shape = SHAPES[learned] || `${learned} dimensions, of which three are shown`;
    const status = `step ${Math.round(step).toLocaleString("en")}: ${learned} of ${modes} modes learned, loss ${loss}; the cloud is ${shape}`;
    byId("status").textContent = status;
    slider.setAttribute("aria-valuetext", status);
    const colouring = run.classes.length ? `coloured by class (${run.classes.join(", ")})` : "coloured by brightness, dark to light";
    byId("caption").textContent = `Embedding, ${run.note}; ${colouring}`;
    const lines = run.theory ? "solid: gradient descent, dashed: closed form" : "measured on the probe images";
    byId("lossCaption").textContent = `Loss; ${lines}`;
    byId("eigenvaluesCaption").textContent = `Eigenvalues of C, one colour per mode, the first is the darkest; ${lines}`;
  };
  show = () => { charts(); draw(); };

  const choose = (index) => {
    run = runs[index];
    slider.max = run.moments.length - 1;
    slider.value = Math.round(0.6 * slider.max);
    show();
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); };
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = 0;
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      if (slider.value === slider.max) return stop();
      slider.value = Number(slider.value) + 1;
      draw();
    }, 180);
  });
  slider.addEventListener("input", () => { if (timer) stop(); draw(); });
  turn.addEventListener("input", draw);
  for (const radio of document.querySelectorAll('input[name="run"]')) {
    radio.addEventListener("change", () => { stop(); choose(Number(radio.value)); });
  }
  // Dragging over a chart moves the slider; dragging over the cloud rotates it.
  for (const id of ["loss", "eigenvalues"]) {
    const svg = byId(id);
    const seek = (event) => {
      if (!(event.buttons & 1)) return;
      const box = svg.getBoundingClientRect();
      const share = ((event.clientX - box.left) / box.width * W - LEFT) / (W - LEFT - RIGHT);
      const first = Math.max(1, run.steps.find((s) => s > 0)), last = run.steps[run.steps.length - 1];
      const from = Math.max(first, Math.min(...run.stepTimes, last) / 12);
      const step = from * (last / from) ** Math.min(Math.max(share, 0), 1);
      let best = 0;
      run.moments.forEach((s, k) => { if (Math.abs(Math.log((s || from) / step)) < Math.abs(Math.log((run.moments[best] || from) / step))) best = k; });
      slider.value = best;
      if (timer) stop();
      draw();
    };
    svg.addEventListener("pointerdown", seek);
    svg.addEventListener("pointermove", seek);
  }
  canvas.addEventListener("pointermove", (event) => {
    if (!(event.buttons & 1)) return;
    turn.value = ((Number(turn.value) + event.movementX * 0.6 + 540) % 360) - 180;
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show());
  choose(0);
})();
