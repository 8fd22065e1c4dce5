// The engine of the page: answers for a network that `alphabar.course.export` wrote, and samples with it.
//
//   const engine = await Engine.fetch(new URL("fashion-pixel/", document.baseURI));
//   for (const step of engine.sample({ seed: 3, steps: 20 })) draw(step.x, step.x0);
//
// Plain JavaScript of no dependency, for a page, a worker or Node. It knows no network: `network.json` lists the
// operations, `OPERATIONS` below says how each is done. All tensors are flat Float32Arrays, row by row. What takes the
// time, convolutions and linear layers, is one matrix product on panels of four rows and four columns.

export const CLEAN = -1; // the state before timestep 0: the image itself, where alpha-bar is 1

// ---------------------------------------------------------------------------------------------------------------------
// Random numbers

/**
 * Standard normal numbers of one sample: mulberry32 (Tommy Ettinger's 32-bit generator, public domain) through the
 * Box-Muller transform, sine after cosine. The stream depends on (seed, index) alone, so image k of a batch is the one
 * that is made alone. They are not torch's numbers: the same seed gives another image in Python.
 * @returns {() => number}
 */
export function gaussian(seed, index = 0) {
  let state = mix(mix(seed >>> 0) + index);
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (((z ^ (z >>> 14)) >>> 0) + 0.5) / 4294967296; // above 0 and below 1
  };
  let second = null;
  return () => {
    if (second !== null) {
      const value = second;
      second = null;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log(uniform())), angle = 2 * Math.PI * uniform();
    second = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}

/** Spreads neighbouring numbers over all 32 bits (the last steps of MurmurHash3). */
function mix(h) {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// Weights

/** Half-precision numbers, given by their bits, as float32. */
export function widen(bits) {
  return Float32Array.from(bits, (h) => {
    const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

function readWeight({ type, size, start }, buffer) {
  if (type === "float16") return widen(new Uint16Array(buffer, start, size));
  if (type === "float32") return new Float32Array(buffer, start, size);
  throw new Error(`weights of type ${type} are unknown to this engine`);
}

// ---------------------------------------------------------------------------------------------------------------------
// The matrix product

const fours = (n) => Math.ceil(n / 4);

/** A matrix [rows, inner] as panels of four rows, [rows / 4, inner, 4]: read in order by `multiply`. */
function panels(matrix, rows, inner) {
  const out = new Float64Array(fours(rows) * inner * 4);
  fillPanels(out, matrix, rows, inner);
  return out;
}

function fillPanels(out, matrix, rows, inner) {
  for (let r = 0; r < rows; r++) {
    let o = (r >> 2) * inner * 4 + (r & 3);
    for (let k = 0, m = r * inner; k < inner; k++, o += 4) out[o] = matrix[m++];
  }
}

const tile = new Float64Array(16);

/**
 * out[r * rowStride + c * columnStride] = bias[r] + sum over k of a[r, k] b[c, k], with a and b in panels.
 *
 * Sixteen sums at a time stay in registers, so that each number read serves four products. Float64, because
 * JavaScript computes in it: float32 panels take up to twice as long, for the conversions.
 */
function multiply(out, a, b, bias, rows, columns, inner, rowStride, columnStride) {
  for (let c = 0; c < columns; c += 4) {
    for (let r = 0; r < rows; r += 4) {
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let s20 = 0, s21 = 0, s22 = 0, s23 = 0, s30 = 0, s31 = 0, s32 = 0, s33 = 0;
      let i = r * inner, j = c * inner;
      for (const end = i + 4 * inner; i < end; i += 4, j += 4) {
        const b0 = b[j], b1 = b[j + 1], b2 = b[j + 2], b3 = b[j + 3];
        let w = a[i];
        s00 += w * b0; s01 += w * b1; s02 += w * b2; s03 += w * b3;
        w = a[i + 1];
        s10 += w * b0; s11 += w * b1; s12 += w * b2; s13 += w * b3;
        w = a[i + 2];
        s20 += w * b0; s21 += w * b1; s22 += w * b2; s23 += w * b3;
        w = a[i + 3];
        s30 += w * b0; s31 += w * b1; s32 += w * b2; s33 += w * b3;
      }
      tile[0] = s00; tile[1] = s01; tile[2] = s02; tile[3] = s03;
      tile[4] = s10; tile[5] = s11; tile[6] = s12; tile[7] = s13;
      tile[8] = s20; tile[9] = s21; tile[10] = s22; tile[11] = s23;
      tile[12] = s30; tile[13] = s31; tile[14] = s32; tile[15] = s33;
      const height = Math.min(4, rows - r), width = Math.min(4, columns - c);
      for (let y = 0; y < height; y++) {
        let o = (r + y) * rowStride + c * columnStride;
        for (let x = 0; x < width; x++, o += columnStride) out[o] = tile[4 * y + x] + bias[r + y];
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The operations. Each gets its entry in `network.json`, its inputs and the array for what it gives, prepares what does
// not change from call to call, and returns the function that does the work. Inputs keep their place between calls.

const each = (f) => (op, [x], out) => () => {
  for (let i = 0; i < out.length; i++) out[i] = f(x[i]);
};

/** a and b with each number of the shorter repeated over a block of the longer. */
const pairwise = (f) => (op, [a, b], out) => {
  const n = out.length, blockA = n / a.length, blockB = n / b.length;
  if (blockA === 1 && blockB === 1) return () => {
    for (let i = 0; i < n; i++) out[i] = f(a[i], b[i]);
  };
  return () => {
    for (let i = 0; i < n; i++) out[i] = f(a[Math.floor(i / blockA)], b[Math.floor(i / blockB)]);
  };
};

export const OPERATIONS = {
  silu: each((x) => x / (1 + Math.exp(-x))),
  cos: each(Math.cos),
  sin: each(Math.sin),
  add: pairwise((a, b) => a + b),
  mul: pairwise((a, b) => a * b),

  /** Every patch that the kernel sees becomes a row; the rows times the weights are the map. */
  conv({ kernel, stride, padding, height, width }, [x, weight, bias], out) {
    const rows = bias.length, channels = x.length / (height * width), taps = kernel * kernel, inner = channels * taps;
    const high = height + 2 * padding, wide = width + 2 * padding;
    const outWidth = Math.floor((wide - kernel) / stride) + 1, pixels = out.length / rows;
    const padded = padding ? new Float32Array(channels * high * wide) : x; // the border stays 0
    const places = new Int32Array(fours(pixels) * taps * 4); // in one channel, in the order of the panels
    for (let p = 0; p < pixels; p++) {
      const corner = Math.floor(p / outWidth) * stride * wide + (p % outWidth) * stride;
      for (let tap = 0; tap < taps; tap++) {
        places[((p >> 2) * taps + tap) * 4 + (p & 3)] = corner + Math.floor(tap / kernel) * wide + (tap % kernel);
      }
    }
    const a = panels(weight, rows, inner), b = new Float64Array(fours(pixels) * inner * 4), step = 4 * taps;
    return () => {
      if (padding) {
        for (let row = 0; row < channels * height; row++) {
          const channel = Math.floor(row / height);
          let o = (channel * high + (row % height) + padding) * wide + padding;
          for (let i = row * width; i < (row + 1) * width; i++) padded[o++] = x[i];
        }
      }
      for (let first = 0, o = 0; first < places.length; first += step) {
        for (let channel = 0; channel < padded.length; channel += high * wide) {
          for (let i = first; i < first + step; i++) b[o++] = padded[channel + places[i]];
        }
      }
      multiply(out, a, b, bias, rows, pixels, inner, pixels, 1);
    };
  },

  linear(op, [x, weight, bias], out) {
    const rows = bias.length, inner = weight.length / rows, tokens = x.length / inner;
    const a = panels(weight, rows, inner), b = new Float64Array(fours(tokens) * inner * 4);
    return () => {
      fillPanels(b, x, tokens, inner);
      multiply(out, a, b, bias, rows, tokens, inner, 1, rows);
    };
  },

  /** Gain and bias may be values: that is adaptive group norm. */
  group_norm({ groups, eps }, [x, gain, bias], out) {
    const pixels = x.length / gain.length, size = x.length / groups;
    return () => {
      for (let start = 0; start < x.length; start += size) {
        const end = start + size;
        let mean = 0, variance = 0;
        for (let i = start; i < end; i++) mean += x[i];
        mean /= size;
        for (let i = start; i < end; i++) variance += (x[i] - mean) * (x[i] - mean);
        const deviation = Math.sqrt(variance / size + eps);
        for (let i = start; i < end; i += pixels) {
          const channel = i / pixels, scale = gain[channel] / deviation, shift = bias[channel] - mean * scale;
          for (let j = i; j < i + pixels; j++) out[j] = x[j] * scale + shift;
        }
      }
    };
  },

  concat: (op, inputs, out) => () => {
    let start = 0;
    for (const x of inputs) {
      out.set(x, start);
      start += x.length;
    }
  },

  slice: ({ start }, [x], out) => () => out.set(x.subarray(start, start + out.length)),

  /** Every pixel `factor` times in both directions. */
  upsample: ({ width, factor }, [x], out) => () => {
    const wide = width * factor;
    for (let o = 0; o < out.length; o++) {
      const row = Math.floor(Math.floor(o / wide) / factor), column = Math.floor((o % wide) / factor);
      out[o] = x[row * width + column];
    }
  },

  /** [..., rows, between, columns, inner] -> [..., columns, between, rows, inner]. */
  transpose({ rows, between, columns, inner }, [x], out) {
    const places = new Int32Array(out.length); // where in x each number comes from
    for (let o = 0; o < out.length; o++) {
      let rest = Math.floor(o / inner);
      const row = rest % rows;
      rest = Math.floor(rest / rows);
      const middle = rest % between;
      rest = Math.floor(rest / between);
      const column = rest % columns, block = Math.floor(rest / columns);
      places[o] = (((block * rows + row) * between + middle) * columns + column) * inner + (o % inner);
    }
    return () => {
      for (let o = 0; o < out.length; o++) out[o] = x[places[o]];
    };
  },

  /** softmax(q k^T / sqrt(width)) v for each head; q, k and v are [heads, tokens, width]. */
  attention({ heads, width }, [q, k, v], out) {
    const queries = q.length / heads / width, keys = k.length / heads / width;
    const scores = new Float64Array(keys), sums = new Float64Array(width);
    return () => {
      for (let row = 0; row < heads * queries; row++) {
        const first = Math.floor(row / queries) * keys * width;
        let largest = -Infinity, total = 0;
        for (let key = 0; key < keys; key++) {
          let sum = 0;
          for (let i = 0; i < width; i++) sum += q[row * width + i] * k[first + key * width + i];
          scores[key] = sum / Math.sqrt(width);
          largest = Math.max(largest, scores[key]);
        }
        sums.fill(0);
        for (let key = 0; key < keys; key++) {
          const share = Math.exp(scores[key] - largest);
          total += share;
          for (let i = 0; i < width; i++) sums[i] += share * v[first + key * width + i];
        }
        for (let i = 0; i < width; i++) out[row * width + i] = sums[i] / total;
      }
    };
  },
};

// ---------------------------------------------------------------------------------------------------------------------
// Diffusion: what an answer says about x0 and eps, where x = alpha x0 + sigma eps

const PREDICTIONS = {
  eps: (answer, x, alpha, sigma) => [(x - sigma * answer) / alpha, answer],
  x0: (answer, x, alpha, sigma) => [answer, (x - alpha * answer) / sigma],
  v: (answer, x, alpha, sigma) => [alpha * x - sigma * answer, sigma * x + alpha * answer],
};

/** How a step from t to s goes, as [of x, of x0, of eps, of fresh noise]; barT and barS are their alpha-bars. */
export const SAMPLERS = {
  /** DDIM at eta = 0 (arXiv:2010.02502, equation 12): no fresh noise. */
  ddim: (barT, barS) => [0, Math.sqrt(barS), Math.sqrt(1 - barS), 0],
  /** DDPM (arXiv:2006.11239, equations 6 and 7): a draw from the posterior at the estimated x0. */
  ddpm(barT, barS) {
    const beta = 1 - barT / barS; // of the whole stride
    const ofX = (Math.sqrt(1 - beta) * (1 - barS)) / (1 - barT), ofX0 = (Math.sqrt(barS) * beta) / (1 - barT);
    return [ofX, ofX0, 0, Math.sqrt((beta * (1 - barS)) / (1 - barT))];
  },
};

const lookUp = (table, name, what) => {
  if (!Object.hasOwn(table, name)) throw new Error(`unknown ${what} ${name}; known: ${Object.keys(table).join(", ")}`);
  return table[name];
};

export class Engine {
  /**
   * @param {object} description what network.json holds
   * @param {ArrayBuffer} weights what weights.bin holds
   */
  constructor(description, weights) {
    const { format, name, shape, prediction, clip, alphas_bar: alphasBar, grids, ops, output } = description;
    if (format !== 1) throw new Error(`network.json has format ${format}; this engine reads 1`);
    Object.assign(this, { name, shape, prediction, clip, alphasBar, grids });
    this.size = shape.reduce((a, b) => a * b, 1); // numbers in one sample
    this.estimate = lookUp(PREDICTIONS, prediction, "prediction");
    const named = {};
    for (const key in description.weights) named[key] = readWeight(description.weights[key], weights);
    const values = [new Float32Array(this.size), new Float32Array(1)]; // x and t, then what each operation gives
    this.work = ops.map((op) => {
      const out = new Float32Array(op.size), prepare = lookUp(OPERATIONS, op.op, "operation");
      const inputs = op.inputs.map((input) => (typeof input === "string" ? named[input] : values[input]));
      values.push(out);
      return prepare(op, inputs, out);
    });
    [this.x, this.t, this.answer] = [values[0], values[1], values[output]];
  }

  /** The engine of a folder; `url` ends with a slash. */
  static async fetch(url) {
    const [description, weights] = await Promise.all(["network.json", "weights.bin"].map(async (file) => {
      const response = await fetch(new URL(file, url));
      if (!response.ok) throw new Error(`${response.url} answers ${response.status}`);
      return file.endsWith("json") ? response.json() : response.arrayBuffer();
    }));
    return new Engine(description, weights);
  }

  /** The network's own answer to x (any number of samples, one after the other) at timestep t. */
  call(x, t) {
    if (x.length === 0 || x.length % this.size) {
      throw new Error(`x holds ${x.length} numbers, which is no whole number of samples of ${this.size}`);
    }
    const out = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += this.size) {
      this.x.set(x.subarray(start, start + this.size));
      this.t[0] = t;
      for (const work of this.work) work();
      out.set(this.answer, start);
    }
    return out;
  }

  /** alpha-bar at a timestep from CLEAN on. */
  alphaBar(t) {
    if (t === CLEAN) return 1;
    if (!(t in this.alphasBar)) throw new Error(`timestep ${t} is outside 0..${this.alphasBar.length - 1}`);
    return this.alphasBar[t];
  }

  /** What the network believes at timestep t, x0 clamped to where images lie and eps following it. */
  predict(x, t) {
    const alpha = Math.sqrt(this.alphaBar(t)), sigma = Math.sqrt(1 - this.alphaBar(t)), { clip } = this;
    const answer = this.call(x, t), x0 = new Float32Array(x.length), eps = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) {
      [x0[i], eps[i]] = this.estimate(answer[i], x[i], alpha, sigma);
      if (clip !== null) {
        x0[i] = Math.max(-clip, Math.min(clip, x0[i]));
        eps[i] = (x[i] - alpha * x0[i]) / sigma;
      }
    }
    return { x0, eps };
  }

  /** The timesteps of a grid by its number of steps, or a grid itself. */
  grid(steps) {
    if (!Array.isArray(steps)) return lookUp(this.grids, steps, "number of steps");
    if (steps.some((t, i) => i > 0 && t >= steps[i - 1])) throw new Error(`a grid must fall: ${steps.join(", ")}`);
    return steps;
  }

  /**
   * Walk from noise to images, giving {index, count, t, s, before, x0, eps, x} after each step: x at t before it, the
   * estimate made there, and x at s.
   * @param {object} options
   *   seed: of the noise, the starting one and DDPM's fresh one.
   *   n: samples.
   *   steps: a number of steps that the network was exported with, or timesteps that fall.
   *   sampler: "ddim" or "ddpm".
   *   x: what to start from, in place of noise.
   */
  *sample({ seed = 0, n = 1, steps = 20, sampler = "ddim", x = null }) {
    const grid = this.grid(steps), share = lookUp(SAMPLERS, sampler, "sampler");
    const streams = Array.from({ length: x ? x.length / this.size : n }, (_, index) => gaussian(seed, index));
    const noise = () => Float32Array.from({ length: streams.length * this.size }, (_, i) =>
      streams[Math.floor(i / this.size)]());
    x = x ?? noise();
    for (const [index, t] of grid.entries()) {
      const s = index + 1 < grid.length ? grid[index + 1] : CLEAN, { x0, eps } = this.predict(x, t);
      const [ofX, ofX0, ofEps, ofNoise] = share(this.alphaBar(t), this.alphaBar(s));
      const fresh = ofNoise > 0 ? noise() : null, before = x;
      x = before.map((value, i) => ofX * value + ofX0 * x0[i] + ofEps * eps[i] + (fresh ? ofNoise * fresh[i] : 0));
      yield { index, count: grid.length, t, s, before, x0, eps, x };
    }
  }
}
