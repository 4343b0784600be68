/* Weights from a file of pages.py: float16 in base64, with shapes and a checksum. */

const fetched = {}; // name -> promise of a model

/** Two bytes -> number. */
function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function adler32(bytes) {
  let a = 1, b = 0;
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return ((b << 16) | a) >>> 0;
}

/** {config, shapes, adler32, data} -> {config, tensors: {name: {data, shape}}}. Error if the file is not whole. */
export function unpack({ config, shapes, adler32: sum, data }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  if (adler32(bytes) !== sum) throw new Error("the checksum is wrong");
  const tensors = {};
  let start = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const numbers = new Float64Array(shape.reduce((product, n) => product * n, 1));
    for (let i = 0; i < numbers.length; i++, start += 2) numbers[i] = fromHalf(bytes[start] | (bytes[start + 1] << 8));
    tensors[name] = { data: numbers, shape };
  }
  return { config, tensors };
}

/** The weights called `name`, from a script beside the page: a page opened as a file may load scripts and nothing else. */
export function fetchWeights(name, folder) {
  fetched[name] ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const fail = (text) => {
      delete fetched[name]; // the next move tries again
      reject(new Error(text));
    };
    script.src = `${folder}/weights_${name}.js`;
    script.onerror = () => fail(`${script.src} cannot be loaded: build the pages again, or look at your network`);
    script.onload = () => {
      try {
        resolve(unpack(globalThis.adalnWeights[name]));
      } catch {
        fail("the file with the weights is damaged: load the page again");
      }
    };
    document.head.append(script);
  });
  return fetched[name];
}
