// Sizes and resizing as the package does them (seg_perception/core/resizing.py), so that the same picture gives the
// same labels here and there.

/** The network's size for a picture: its shape, the budget's number of pixels, multiples of `multiple`. */
export function networkSize(width, height, budget, multiple) {
  const scale = Math.sqrt((budget.width * budget.height) / (width * height));
  const fit = (length) => Math.max(1, halfEven((length * scale) / multiple)) * multiple;
  return { width: fit(width), height: fit(height) };
}

/** Rounds to the nearest integer, halves to the even one, as Python and OpenCV do. */
export function halfEven(value) {
  const below = Math.floor(value), rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** RGBA pixels to RGB at another size: the mean of the covered area where both sides shrink, else bilinear. */
export function resizeRgb(rgba, width, height, target) {
  if (target.width === width && target.height === height) {
    const same = new Uint8Array(width * height * 3);
    for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) same[3 * i + c] = rgba[4 * i + c];
    return same;
  }
  const shrinks = target.width < width && target.height < height;
  const taps = shrinks ? areaTaps : linearTaps;
  const columns = taps(width, target.width), rows = taps(height, target.height);
  const narrow = new Float32Array(height * target.width * 3);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < target.width; x++)
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (const [from, weight] of columns[x]) sum += weight * rgba[4 * (y * width + from) + c];
        narrow[3 * (y * target.width + x) + c] = sum;
      }
  const out = new Uint8Array(target.height * target.width * 3);
  const stride = 3 * target.width;
  for (let y = 0; y < target.height; y++)
    for (let i = 0; i < stride; i++) {
      let sum = 0;
      for (const [from, weight] of rows[y]) sum += weight * narrow[from * stride + i];
      out[y * stride + i] = Math.min(255, Math.max(0, halfEven(sum)));
    }
  return out;
}

function areaTaps(size, target) {
  const scale = size / target;
  return Array.from({ length: target }, (_, i) => {
    const begin = i * scale, end = Math.min(size, begin + scale), taps = [];
    for (let from = Math.floor(begin); from < end - 1e-9; from++)
      taps.push([from, (Math.min(end, from + 1) - Math.max(begin, from)) / (end - begin)]);
    return taps;
  });
}

function linearTaps(size, target) {
  const scale = size / target;
  return Array.from({ length: target }, (_, i) => {
    const place = (i + 0.5) * scale - 0.5, below = Math.floor(place), weight = place - below;
    const clamp = (at) => Math.min(size - 1, Math.max(0, at));
    return [[clamp(below), 1 - weight], [clamp(below + 1), weight]];
  });
}

/** Labels or confidence to the picture's size: the nearest value, as OpenCV's INTER_NEAREST_EXACT. */
export function nearest(values, from, width, height) {
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.min(from.height - 1, Math.floor(((y + 0.5) * from.height) / height));
    for (let x = 0; x < width; x++)
      out[y * width + x] = values[row * from.width + Math.min(from.width - 1, Math.floor(((x + 0.5) * from.width) / width))];
  }
  return out;
}
