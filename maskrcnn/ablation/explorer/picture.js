// Pictures, and feature maps made from them.
"use strict";

const Pictures = (() => {
  const SHIFT_STEPS = 16; // positions of the slider within one cell
  const mix = (a, b, t) => t ? [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t] : a;
  const smooth = (low, high, x) => {
    const t = Math.min(Math.max((x - low) / (high - low), 0), 1);
    return t * t * (3 - 2 * t);
  };
  // 1 inside an ellipse, 0 outside, with a soft edge.
  const ellipse = (u, v, cu, cv, ru, rv) => 1 - smooth(0.93, 1.07, Math.hypot((u - cu) / ru, (v - cv) / rv));

  // Colour of the generated picture at (u, v): a duck on water. The duck covers u from 0.16 to 0.8 and v from 0.28 to
  // 0.77; the water has no end.
  function duck(u, v) {
    const wave = 0.5 + 0.5 * Math.sin(46 * v + 3 * Math.sin(7 * u + 11 * v));
    const water = mix([58, 110, 148], [104, 156, 186], wave * smooth(0.55, 0.9, v));
    let colour = mix(mix([226, 233, 232], [168, 200, 205], Math.max(v, 0) / 0.55), water, smooth(0.53, 0.57, v));
    colour = mix(colour, [86, 124, 84], smooth(0.0, 0.02, v - 0.5 + 0.035 * Math.sin(9 * u)) * (1 - smooth(0.53, 0.57, v)));
    colour = mix(colour, [38, 74, 104], 0.7 * ellipse(u, v, 0.46, 0.76, 0.27, 0.045));
    colour = mix(colour, [238, 190, 60], ellipse(u, v, 0.45, 0.62, 0.25, 0.14));
    colour = mix(colour, [238, 190, 60], ellipse(u, v, 0.23, 0.55, 0.07, 0.045));
    colour = mix(colour, [196, 142, 34], ellipse(u, v, 0.41, 0.61, 0.13, 0.07));
    colour = mix(colour, [246, 204, 84], ellipse(u, v, 0.61, 0.4, 0.115, 0.115));
    colour = mix(colour, [214, 92, 38], ellipse(u, v, 0.735, 0.425, 0.06, 0.026));
    return mix(colour, [30, 34, 38], ellipse(u, v, 0.645, 0.37, 0.02, 0.02));
  }

  const brightness = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b) / 255;

  function bitmap(width, height, paint) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const image = context.createImageData(width, height);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const [r, g, b] = paint(x, y);
        image.data.set([r, g, b, 255], 4 * (y * width + x));
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  // A picture has its size in pixels of the network's input, a function for the brightness at a pixel, and a bitmap of
  // the rectangle left..width x 0..height to draw. `left` is negative if the picture continues to the left, which is
  // visible when it moves right. This one has the duck in the box.
  function generated(width, height, box) {
    const size = Math.min((box[2] - box[0]) / 0.64, (box[3] - box[1]) / 0.49);
    const middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
    const colour = (x, y) => duck((x - middle[0]) / size + 0.48, (y - middle[1]) / size + 0.525);
    const [per, left] = [Math.max(240 / size, 260 / width), -width / 8]; // bitmap's pixels per pixel
    const canvas = bitmap(Math.round((width - left) * per), Math.round(height * per), (x, y) => colour((x + 0.5) / per + left, (y + 0.5) / per));
    return { name: `generated ${[width, height, ...box]}`, width, height, left, canvas, at: (x, y) => brightness(colour(x, y)) };
  }

  async function photograph({ uri, width, height }) {
    const image = new Image();
    image.src = uri;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const at = (x, y) => {
      const column = Math.min(Math.max(Math.floor(x / width * canvas.width), 0), canvas.width - 1);
      const row = Math.min(Math.max(Math.floor(y / height * canvas.height), 0), canvas.height - 1);
      return brightness(data.subarray(4 * (row * canvas.width + column)));
    };
    return { name: "photograph", width, height, left: 0, canvas, at };
  }

  // A map is { height, width, at(channel, row, column) }. `moved` is the shift of the image to the right, in cells.
  function brightnessMap(picture, stride, moved) {
    const [height, width] = [Math.ceil(picture.height / stride), Math.ceil(picture.width / stride)];
    const per = stride * 512 >= 16 * picture.width ? 4 : 2; // points per side of a cell
    const values = new Float32Array(height * width);
    for (let k = 0; k < values.length; k++) {
      const [row, column] = [Math.floor(k / width), k % width];
      let sum = 0;
      for (let n = 0; n < per * per; n++) {
        const x = column - moved + (n % per + 0.5) / per;
        sum += picture.at(x * stride, (row + (Math.floor(n / per) + 0.5) / per) * stride);
      }
      values[k] = sum / per ** 2;
    }
    return plain(height, width, values);
  }

  function plain(height, width, values) {
    return { height, width, at: (channel, row, column) => values[row * width + column] };
  }

  // The map column + 10 row. Its pooled values show where an operator reads, in the operator's coordinates.
  function rampMap(picture, stride, moved) {
    const [height, width] = [Math.ceil(picture.height / stride), Math.ceil(picture.width / stride)];
    return { height, width, at: (channel, row, column) => Math.fround(column - moved + 10 * row) };
  }

  // P x P score maps as R-FCN learns them: map (i, j) is 1 at part (i, j) of the object and falls to 0 within half a part
  // around it. object: the object's box in pixels.
  function partMaps(picture, stride, moved, bins, object) {
    const part = (place, low, high, index) => {
      const from = (place * stride - low) / (high - low) * bins - index - 0.5;
      return Math.min(Math.max(2 * (1 - Math.abs(from)), 0), 1);
    };
    const [height, width] = [Math.ceil(picture.height / stride), Math.ceil(picture.width / stride)];
    const at = (channel, row, column) => Math.fround(
      part(row + 0.5, object[1], object[3], Math.floor(channel / bins))
      * part(column + 0.5 - moved, object[0], object[2], channel % bins));
    return { height, width, at };
  }

  // Converts the 16 bits of a half-precision number.
  function half(bits) {
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
    return bits & 0x8000 ? -size : size;
  }

  // Decode channel maps of a network from the page's data: base64 of float16 [shifts, height, width].
  function decode({ height, width, data }) {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const values = Float32Array.from(new Uint16Array(bytes.buffer), half);
    const cells = height * width;
    const shifts = values.length / cells;
    return Array.from({ length: shifts }, (_, k) => plain(height, width, values.subarray(k * cells, (k + 1) * cells)));
  }

  return { SHIFT_STEPS, generated, photograph, brightnessMap, rampMap, partMaps, decode };
})();
