// Problem: what is asked of a GEMM. Plain values, compared by value; knows no tile, GPU or disk.
//
//   D[M,N] (+)= dequant(A)[M,K] * dequant(B)[N,K]^T
//
// A and B are FP8, row-major with K contiguous ("K-major"). M, the row strides and the pointers are
// run-time arguments of a launch and never part of a problem, so one problem is one kernel family.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

namespace kiln::jit {

enum class Layout : std::uint8_t { kDense };

// How the scales lie over the operands, one FP32 value per block.
//   1d2d: A in 1x128 blocks (SFA [M, ceil(K/128)]), B in 128x128 blocks (SFB [ceil(N/128),
//   ceil(K/128)]).
enum class Scaling : std::uint8_t { k1d2d };

enum class Fp8Type : std::uint8_t { kE4m3, kE5m2 };
enum class OutputType : std::uint8_t { kBf16, kF32 };

// Which index of SFA is contiguous in memory.
//   row: sfa[m * ld + kb], ld >= ceil(K/128), any alignment of 4 bytes
//   m:   sfa[kb * ld + m], ld >= M, ld a multiple of 4 and the base 16-byte aligned (loaded by TMA)
enum class ScaleMajor : std::uint8_t { kRow, kM };

inline constexpr std::int64_t kScaleBlock = 128;  // K per scale value, and per promotion to FP32

struct Problem {
  Layout layout = Layout::kDense;
  Scaling scaling = Scaling::k1d2d;
  std::int64_t n = 0;  // multiple of 8, in 8..2^31-512
  std::int64_t k = 0;  // multiple of 16, in 16..2^31-512
  Fp8Type a = Fp8Type::kE4m3;
  Fp8Type b = Fp8Type::kE4m3;
  OutputType out = OutputType::kBf16;
  ScaleMajor sfa_major = ScaleMajor::kRow;
  bool accumulate = false;  // D += instead of D =; needs out == kF32

  auto operator<=>(const Problem&) const = default;
};

// Throws Error{kInvalidArgument} naming field, value, rule and remedy. A problem that passes can be
// planned, rendered and compiled.
void validate(const Problem& problem);

// The largest M a launch takes: the tile index and TMA coordinates stay in 31 bits.
inline constexpr std::int64_t kMaxM = (std::int64_t{1} << 31) - 512;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t scale_blocks(std::int64_t extent) { return ceil_div(extent, kScaleBlock); }
inline std::int64_t element_bytes(OutputType type) { return type == OutputType::kBf16 ? 2 : 4; }

// Names as the CLI, the JSON files and the log spell them: "dense", "1d2d", "e4m3", "bf16", "row".
std::string_view name(Layout value);
std::string_view name(Scaling value);
std::string_view name(Fp8Type value);
std::string_view name(OutputType value);
std::string_view name(ScaleMajor value);

// The inverse of name(); throws Error{kInvalidArgument} listing the accepted words. `field` is what
// the message calls the value, e.g. "--a" or "problems[3].a".
Layout parse_layout(std::string_view text, std::string_view field);
Scaling parse_scaling(std::string_view text, std::string_view field);
Fp8Type parse_fp8_type(std::string_view text, std::string_view field);
OutputType parse_output_type(std::string_view text, std::string_view field);
ScaleMajor parse_scale_major(std::string_view text, std::string_view field);

// One line, unique per problem, e.g. "dense 1d2d n=7168 k=2048 e4m3 x e4m3 -> bf16 sfa=row".
std::string describe(const Problem& problem);

}  // namespace kiln::jit
