// SPDX-License-Identifier: Apache-2.0
// The interactive 3-D view: WebGL 2, no library. Drag turns, shift-drag or right-drag moves, wheel or pinch zooms.
"use strict";
(() => {
  const holder = document.getElementById("viewer");
  if (!holder) return;
  const canvas = holder.querySelector("canvas");
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: false, preserveDrawingBuffer: true });
  if (!gl) return; // the still picture stays
  const data = JSON.parse(document.getElementById("viewer-data").textContent);

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const positions = (text) => {
    const raw = new Uint16Array(bytes(text).buffer);
    return Float32Array.from(raw, (v) => (v / 32767.5 - 1) * data.extent);
  };

  // --- programs -------------------------------------------------------------------------------------------
  const compile = (vertex, fragment) => {
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, "#version 300 es\nprecision highp float;\n" + text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    return program;
  };
  const surfaceProgram = compile(
    `layout(location=0) in vec3 p; layout(location=1) in vec3 c; layout(location=2) in vec3 n;
     uniform mat4 view, projection; out vec3 color, normal, eye;
     void main() { vec4 e = view * vec4(p, 1.0); eye = e.xyz; normal = mat3(view) * n; color = c;
                   gl_Position = projection * e; }`,
    `in vec3 color, normal, eye; out vec4 rgba;
     void main() { float facing = abs(dot(normalize(normal), normalize(eye)));
                   rgba = vec4(color * (0.28 + 0.78 * facing), 1.0); }`);
  const plainProgram = compile(
    `layout(location=0) in vec3 p; layout(location=1) in vec3 c;
     uniform mat4 view, projection; uniform float size; out vec3 color;
     void main() { color = c; gl_Position = projection * view * vec4(p, 1.0); gl_PointSize = size; }`,
    `in vec3 color; uniform vec4 tint; out vec4 rgba;
     void main() { rgba = vec4(mix(color, tint.rgb, tint.a), 1.0); }`);

  const buffer = (array, target = gl.ARRAY_BUFFER) => {
    const b = gl.createBuffer();
    gl.bindBuffer(target, b);
    gl.bufferData(target, array, gl.STATIC_DRAW);
    return b;
  };
  const attribute = (slot, b, type, normalised) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, b);
    gl.enableVertexAttribArray(slot);
    gl.vertexAttribPointer(slot, 3, type, normalised, 0, 0);
  };
  const object = (xyz, rgb, extra) => {
    const vao = gl.createVertexArray();
    gl.bindVertexArray(vao);
    attribute(0, buffer(xyz), gl.FLOAT, false);
    if (rgb) attribute(1, buffer(rgb), gl.UNSIGNED_BYTE, true);
    else { gl.disableVertexAttribArray(1); }
    if (extra) extra();
    gl.bindVertexArray(null);
    return vao;
  };

  // --- content --------------------------------------------------------------------------------------------
  const pointXyz = positions(data.points.xyz);
  const points = { vao: object(pointXyz, bytes(data.points.rgb)), n: pointXyz.length / 3 };

  let surface = null;
  if (data.mesh) {
    const xyz = positions(data.mesh.xyz);
    const faces = new Uint32Array(bytes(data.mesh.faces).buffer);
    const normals = new Float32Array(xyz.length);
    for (let f = 0; f < faces.length; f += 3) {
      const [i, j, k] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
      const ux = xyz[j] - xyz[i], uy = xyz[j + 1] - xyz[i + 1], uz = xyz[j + 2] - xyz[i + 2];
      const vx = xyz[k] - xyz[i], vy = xyz[k + 1] - xyz[i + 1], vz = xyz[k + 2] - xyz[i + 2];
      const n = [uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx];
      for (const v of [i, j, k]) for (let a = 0; a < 3; a++) normals[v + a] += n[a];
    }
    const rgb = data.mesh.rgb ? bytes(data.mesh.rgb) : new Uint8Array(xyz.length).map((_, i) => [222, 214, 199][i % 3]);
    surface = {
      vao: object(xyz, rgb, () => {
        attribute(2, buffer(normals), gl.FLOAT, false);
        buffer(faces, gl.ELEMENT_ARRAY_BUFFER);
      }),
      n: faces.length,
    };
  }

  const edges = [0, 1, 0, 2, 0, 3, 0, 4, 1, 2, 2, 3, 3, 4, 4, 1];
  const lineXyz = new Float32Array(data.cameras.flatMap((c) => edges.flatMap((e) => c.corners[e])));
  const cameras = { vao: object(lineXyz, new Uint8Array(lineXyz.length)), n: lineXyz.length / 3 };

  // --- the viewer's own camera ----------------------------------------------------------------------------
  const home = { yaw: 0.61, pitch: 0.35, distance: 3.2 * data.radius, target: [0, 0, 0] };
  let eye = structuredClone(home);
  let chosen = -1;
  const field = 2 * Math.atan(0.5 / 1.35);
  const frame = () => {
    // Rows of the rotation world -> eye (x right, y up, z towards the viewer).
    const [cy, sy, cp, sp] = [Math.cos(eye.yaw), Math.sin(eye.yaw), Math.cos(eye.pitch), Math.sin(eye.pitch)];
    return { right: [cy, 0, -sy], up: [-sp * sy, cp, -sp * cy], back: [cp * sy, sp, cp * cy] };
  };
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const viewMatrix = () => {
    const { right, up, back } = frame();
    const e = eye.target.map((t, i) => t + eye.distance * back[i]);
    return new Float32Array([
      right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
      -dot(right, e), -dot(up, e), -dot(back, e), 1]);
  };
  const projectionMatrix = (aspect) => {
    const f = 1 / Math.tan(field / 2), near = eye.distance * 0.01, far = eye.distance + 40 * data.radius;
    return new Float32Array([
      f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0]);
  };

  const rgb = (name) => {
    const text = getComputedStyle(holder).getPropertyValue(name).trim();
    const v = parseInt(text.slice(1), 16);
    return [(v >> 16) / 255, ((v >> 8) & 255) / 255, (v & 255) / 255];
  };
  const shown = (name) => holder.querySelector(`[data-show="${name}"]`)?.checked ?? false;
  const bar = holder.querySelector(".scale-bar");

  let waiting = false;
  const redraw = () => {
    if (!waiting) { waiting = true; requestAnimationFrame(draw); }
  };
  function draw() {
    waiting = false;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [w, h] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!w || !h) return;
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    gl.viewport(0, 0, w, h);
    gl.clearColor(...rgb("--viewer-ground"), 1);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const [view, projection] = [viewMatrix(), projectionMatrix(w / h)];
    const use = (program) => {
      gl.useProgram(program);
      gl.uniformMatrix4fv(gl.getUniformLocation(program, "view"), false, view);
      gl.uniformMatrix4fv(gl.getUniformLocation(program, "projection"), false, projection);
    };
    if (surface && shown("surface")) {
      use(surfaceProgram);
      gl.bindVertexArray(surface.vao);
      gl.drawElements(gl.TRIANGLES, surface.n, gl.UNSIGNED_INT, 0);
    }
    use(plainProgram);
    const tint = gl.getUniformLocation(plainProgram, "tint");
    if (shown("points")) {
      gl.uniform4f(tint, 0, 0, 0, 0);
      gl.uniform1f(gl.getUniformLocation(plainProgram, "size"), 2.5 * ratio);
      gl.bindVertexArray(points.vao);
      gl.drawArrays(gl.POINTS, 0, points.n);
    }
    if (shown("cameras")) {
      gl.bindVertexArray(cameras.vao);
      gl.uniform4f(tint, ...rgb("--viewer-camera"), 1);
      gl.drawArrays(gl.LINES, 0, cameras.n);
      if (chosen >= 0) {
        gl.disable(gl.DEPTH_TEST);
        gl.uniform4f(tint, ...rgb("--viewer-chosen"), 1);
        gl.drawArrays(gl.LINES, chosen * edges.length, edges.length);
      }
    }
    gl.bindVertexArray(null);
    drawScale();
  }

  // A bar of a round length, true at the distance of the point the view turns about.
  function drawScale() {
    const perPixel = (2 * Math.tan(field / 2) * eye.distance) / canvas.clientHeight;
    const wish = 110 * perPixel, power = 10 ** Math.floor(Math.log10(wish));
    const length = [5, 2, 1].find((f) => f * power <= wish) * power;
    bar.style.width = `${length / perPixel}px`;
    const shownLength = +length.toPrecision(3);
    bar.textContent = `${shownLength} ${data.unit === "units" && shownLength === 1 ? "unit" : data.unit}`;
  }

  // --- moving ---------------------------------------------------------------------------------------------
  const turn = (dx, dy) => {
    eye.yaw -= dx;
    eye.pitch = Math.max(-1.55, Math.min(1.55, eye.pitch + dy));
    redraw();
  };
  const shift = (dx, dy) => {
    const { right, up } = frame();
    const k = (2 * Math.tan(field / 2) * eye.distance) / canvas.clientHeight;
    eye.target = eye.target.map((t, i) => t - k * dx * right[i] + k * dy * up[i]);
    redraw();
  };
  const zoom = (factor) => {
    eye.distance = Math.max(0.02 * data.radius, Math.min(20 * data.radius, eye.distance * factor));
    redraw();
  };
  const fingers = new Map();
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    fingers.set(e.pointerId, e);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (e) => fingers.delete(e.pointerId));
  canvas.addEventListener("pointermove", (e) => {
    const last = fingers.get(e.pointerId);
    if (!last) return;
    const [dx, dy] = [e.clientX - last.clientX, e.clientY - last.clientY];
    if (fingers.size === 2) {
      const other = [...fingers.values()].find((p) => p.pointerId !== e.pointerId);
      const apart = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
      zoom(apart(last) / Math.max(apart(e), 1));
      shift(dx / 2, dy / 2);
    } else if (e.shiftKey || e.buttons === 2) shift(dx, dy);
    else turn(dx * 0.008, dy * 0.008);
    fingers.set(e.pointerId, e);
  });
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  canvas.addEventListener("wheel", (e) => {
    if (document.activeElement !== canvas && !e.ctrlKey) return; // the page scrolls until the view is clicked
    e.preventDefault();
    zoom(Math.exp(e.deltaY * 0.0015));
  }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (step) e.shiftKey ? shift(-30 * step[0], -30 * step[1]) : turn(-0.12 * step[0], -0.12 * step[1]);
    else if (e.key === "+" || e.key === "=") zoom(0.87);
    else if (e.key === "-") zoom(1.15);
    else if (e.key === "0" || e.key === "Home") reset();
    else return;
    e.preventDefault();
  });

  const picker = holder.querySelector("select");
  const reset = () => {
    eye = structuredClone(home);
    chosen = -1;
    if (picker) picker.value = "-1";
    redraw();
  };
  holder.querySelector("[data-do=reset]").addEventListener("click", reset);
  for (const box of holder.querySelectorAll("[data-show]")) box.addEventListener("change", redraw);
  picker?.addEventListener("change", () => {
    chosen = Number(picker.value);
    if (chosen < 0) return reset();
    // Stand a little behind the chosen camera and look where it looks.
    const [c, ...corners] = data.cameras[chosen].corners;
    const middle = [0, 1, 2].map((a) => corners.reduce((s, p) => s + p[a], 0) / 4);
    const ahead = middle.map((m, a) => m - c[a]);
    const size = Math.hypot(...ahead);
    const d = ahead.map((v) => v / size);
    const reach = Math.max(Math.hypot(...c), size);
    eye = {
      yaw: Math.atan2(-d[0], -d[2]),
      pitch: Math.max(-1.55, Math.min(1.55, Math.asin(-d[1]))),
      distance: reach + size,
      target: c.map((v, a) => v + reach * d[a]),
    };
    redraw();
  });

  holder.classList.add("live");
  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  redraw();
})();
