// The distribution that a character is drawn from, made of the model's own as the server makes it: bias, temperature,
// softmax, then top-k, top-p and min-p. See docs/design.md, section 5.

export const bitsOf = (logprob) => -logprob / Math.LN2;

// Returns the probability of each symbol; 0 where a limit cut it.
export function distribution(logprobs, { temperature = 1, topK = 0, topP = 1, minP = 0 }) {
  if (temperature === 0) {
    const best = logprobs.indexOf(Math.max(...logprobs));
    return logprobs.map((_, index) => (index === best ? 1 : 0));
  }
  let shares = softmax(logprobs.map((value) => value / temperature));
  if (topK > 0 && topK < shares.length) {
    const edge = [...shares].sort((one, other) => other - one)[topK - 1];
    shares = normalise(shares.map((share) => (share >= edge ? share : 0)));
  }
  const largest = Math.max(...shares);
  if (topP < 1) {
    const order = shares.map((_, index) => index).sort((one, other) => shares[other] - shares[one]);
    let mass = 0;
    const kept = new Set();
    for (const index of order) {
      if (mass >= topP) break;
      mass += shares[index];
      kept.add(index);
    }
    shares = shares.map((share, index) => (kept.has(index) ? share : 0));
  }
  if (minP > 0) shares = shares.map((share) => (share >= minP * largest ? share : 0));
  return normalise(shares);
}

function softmax(values) {
  const largest = Math.max(...values);
  return normalise(values.map((value) => Math.exp(value - largest)));
}

function normalise(shares) {
  const sum = shares.reduce((total, share) => total + share, 0);
  return shares.map((share) => share / sum);
}

export const entropy = (shares) => -shares.reduce((sum, share) => sum + (share > 0 ? share * Math.log2(share) : 0), 0);

// Bits by which the second distribution misses the first: their Kullback-Leibler divergence. Both in logarithms.
export function divergence(wanted, found) {
  const nats = wanted.reduce((sum, logprob, index) => sum + Math.exp(logprob) * (logprob - found[index]), 0);
  return Math.max(0, nats / Math.LN2); // never below 0 but for rounding
}
