#include "cache/sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace kiln::cache {
namespace {

constexpr std::size_t kBlockBytes = 64;
constexpr std::size_t kLengthBytes = 8;  // the message length in bits, at the end of the last block

alignas(16) constexpr std::array<std::uint32_t, 64> kRoundConstants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr Sha256State kInitialState = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

std::uint32_t load_big_endian(const std::uint8_t* bytes) {
  return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 |
         std::uint32_t{bytes[2]} << 8 | std::uint32_t{bytes[3]};
}

void store_big_endian(std::uint32_t value, std::uint8_t* bytes) {
  for (int i = 0; i < 4; ++i) bytes[i] = static_cast<std::uint8_t>(value >> (24 - 8 * i));
}

// One round. The eight working variables stay where they are and the callers rotate the names, so
// that only d and h are written.
inline void round(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t& d,
                  std::uint32_t e, std::uint32_t f, std::uint32_t g, std::uint32_t& h,
                  std::uint32_t constant_plus_word) {
  const std::uint32_t sum1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
  const std::uint32_t choose = g ^ (e & (f ^ g));
  const std::uint32_t first = h + sum1 + choose + constant_plus_word;
  const std::uint32_t sum0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
  const std::uint32_t majority = (a & b) | (c & (a | b));
  d += first;
  h = first + sum0 + majority;
}

#if defined(__x86_64__)

bool cpu_has_sha() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const bool ssse3 = (c & bit_SSSE3) != 0;
  const bool sse41 = (c & bit_SSE4_1) != 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return ssse3 && sse41 && (b & bit_SHA) != 0;
}

// The SHA extension keeps the state as two vectors, {f, e, b, a} and {h, g, d, c} from the lowest
// lane up, and runs two rounds per instruction.
__attribute__((target("sha,sse4.1,ssse3"))) void compress_sha_extension(Sha256State& state,
                                                                        const std::uint8_t* blocks,
                                                                        std::size_t count) {
  const __m128i to_big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const auto lane = [&state](int i) { return static_cast<int>(state[i]); };
  __m128i abef = _mm_set_epi32(lane(0), lane(1), lane(4), lane(5));
  __m128i cdgh = _mm_set_epi32(lane(2), lane(3), lane(6), lane(7));

  for (; count > 0; --count, blocks += kBlockBytes) {
    const __m128i abef_before = abef;
    const __m128i cdgh_before = cdgh;
    __m128i words[4];  // the schedule's last 16 words, four to a vector
    for (int i = 0; i < 4; ++i) {
      const auto* source = reinterpret_cast<const __m128i*>(blocks + 16 * i);
      words[i] = _mm_shuffle_epi8(_mm_loadu_si128(source), to_big_endian);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const auto* constants = reinterpret_cast<const __m128i*>(&kRoundConstants[4 * i]);
      const __m128i sums = _mm_add_epi32(words[i % 4], _mm_load_si128(constants));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sums);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sums, 0x0e));
      if (i < 12) {
        const __m128i newest = words[(i + 3) % 4];
        const __m128i seven_back = _mm_alignr_epi8(newest, words[(i + 2) % 4], 4);
        const __m128i partial = _mm_sha256msg1_epu32(words[i % 4], words[(i + 1) % 4]);
        words[i % 4] = _mm_sha256msg2_epu32(_mm_add_epi32(partial, seven_back), newest);
      }
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }

  alignas(16) std::uint32_t low[4];
  alignas(16) std::uint32_t high[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(low), abef);
  _mm_store_si128(reinterpret_cast<__m128i*>(high), cdgh);
  state = {low[3], low[2], high[3], high[2], low[1], low[0], high[1], high[0]};
}

#endif  // __x86_64__

}  // namespace

void compress_portable(Sha256State& state, const std::uint8_t* blocks, std::size_t count) {
  for (; count > 0; --count, blocks += kBlockBytes) {
    std::array<std::uint32_t, 64> words;
    for (std::size_t i = 0; i < 16; ++i) words[i] = load_big_endian(blocks + 4 * i);
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t x = words[i - 15];
      const std::uint32_t y = words[i - 2];
      const std::uint32_t sigma0 = std::rotr(x, 7) ^ std::rotr(x, 18) ^ (x >> 3);
      const std::uint32_t sigma1 = std::rotr(y, 17) ^ std::rotr(y, 19) ^ (y >> 10);
      words[i] = words[i - 16] + sigma0 + words[i - 7] + sigma1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (std::size_t i = 0; i < 64; i += 8) {
      const std::uint32_t* k = &kRoundConstants[i];
      const std::uint32_t* w = &words[i];
      round(a, b, c, d, e, f, g, h, k[0] + w[0]);
      round(h, a, b, c, d, e, f, g, k[1] + w[1]);
      round(g, h, a, b, c, d, e, f, k[2] + w[2]);
      round(f, g, h, a, b, c, d, e, k[3] + w[3]);
      round(e, f, g, h, a, b, c, d, k[4] + w[4]);
      round(d, e, f, g, h, a, b, c, k[5] + w[5]);
      round(c, d, e, f, g, h, a, b, k[6] + w[6]);
      round(b, c, d, e, f, g, h, a, k[7] + w[7]);
    }
    const Sha256State added = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state[i] += added[i];
  }
}

CompressFn compress_accelerated() {
#if defined(__x86_64__)
  static const bool available = cpu_has_sha();
  if (available) return compress_sha_extension;
#endif
  return nullptr;
}

CompressFn compress_best() {
  const CompressFn accelerated = compress_accelerated();
  return accelerated != nullptr ? accelerated : compress_portable;
}

Sha256::Sha256(CompressFn compress) : compress_(compress), state_(kInitialState) {}

void Sha256::update(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  std::size_t left = bytes.size();
  total_ += left;
  if (used_ > 0) {
    const std::size_t taken = std::min(left, kBlockBytes - used_);
    std::memcpy(block_.data() + used_, data, taken);
    used_ += taken;
    data += taken;
    left -= taken;
    if (used_ < kBlockBytes) return;
    compress_(state_, block_.data(), 1);
    used_ = 0;
  }
  const std::size_t blocks = left / kBlockBytes;
  if (blocks > 0) compress_(state_, data, blocks);
  used_ = left % kBlockBytes;
  std::memcpy(block_.data(), data + blocks * kBlockBytes, used_);
}

Digest Sha256::finish() {
  const std::uint64_t bits = total_ * 8;
  block_[used_++] = 0x80;
  if (used_ > kBlockBytes - kLengthBytes) {
    std::fill(block_.begin() + used_, block_.end(), std::uint8_t{0});
    compress_(state_, block_.data(), 1);
    used_ = 0;
  }
  std::fill(block_.begin() + used_, block_.end(), std::uint8_t{0});
  store_big_endian(static_cast<std::uint32_t>(bits >> 32), &block_[56]);
  store_big_endian(static_cast<std::uint32_t>(bits), &block_[60]);
  compress_(state_, block_.data(), 1);
  Digest digest;
  for (std::size_t i = 0; i < 8; ++i) store_big_endian(state_[i], &digest[4 * i]);
  return digest;
}

}  // namespace kiln::cache
