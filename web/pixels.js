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

/**
 * RGBA pixels to RGB at another size. Where both sides shrink: first the mean of whole blocks, then the rest, bilinear up
 * to a factor of 1.5, else the mean of the covered area. Elsewhere bilinear.
 */
export function resizeRgb(rgba, width, height, target) {
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) rgb[3 * i + c] = rgba[4 * i + c];
  const image = { rgb, width, height };
  if (target.width >= width || target.height >= height) return resample(image, target, linearTaps).rgb;
  let block = Math.min(Math.floor(width / target.width), Math.floor(height / target.height));
  while (width % block || height % block) block--;
  const halfUp = (value) => Math.floor(value + 0.5);
  const blocks = { width: width / block, height: height / block };
  const means = resample(image, blocks, areaTaps, block === 2 ? halfUp : halfEven);
  const factor = Math.max(means.width / target.width, means.height / target.height);
  return resample(means, target, factor <= 1.5 ? linearTaps : areaTaps).rgb;
}

function resample(image, target, taps, round = halfEven) {
  if (target.width === image.width && target.height === image.height) return image;
  const columns = taps(image.width, target.width), rows = taps(image.height, target.height);
  const stride = 3 * target.width;
  const narrow = new Float32Array(image.height * stride);
  for (let y = 0; y < image.height; y++)
    for (let x = 0; x < target.width; x++)
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (const [from, weight] of columns[x]) sum += weight * image.rgb[3 * (y * image.width + from) + c];
        narrow[y * stride + 3 * x + c] = sum;
      }
  const rgb = new Uint8Array(target.height * stride);
  for (let y = 0; y < target.height; y++)
    for (let i = 0; i < stride; i++) {
      let sum = 0;
      for (const [from, weight] of rows[y]) sum += weight * narrow[from * stride + i];
      rgb[y * stride + i] = Math.min(255, Math.max(0, round(sum)));
    }
  return { rgb, width: target.width, height: target.height };
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
