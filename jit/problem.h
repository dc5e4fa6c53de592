// Problem: what is asked of a GEMM. Plain values, compared by value; knows no tile, GPU or disk.
//
//   D[M,N] (+)= dequant(A)[M,K] * dequant(B)[N,K]^T
//
// A and B are FP8, row-major with K contiguous ("K-major"). M, the row strides and the pointers are
// run-time arguments of a launch and never part of a problem, so one problem is one kernel family.
// The grouped layouts are G such products in one launch; how many rows (or how much of K) each has
// is known on the device only.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

namespace kiln::jit {

// dense               A [M,K], B [N,K], D [M,N]
// grouped_contiguous  A [sum M_g,K], B [G,N,K], D [sum M_g,N]: the groups' rows follow each other
// grouped_masked      A [G,M,K], B [G,N,K], D [G,M,N], of which group g has its first rows[g] rows
// grouped_k           A [M,sum K_g], B [N,sum K_g], D [G,M,N]: the weight gradient of a grouped
// layer
enum class Layout : std::uint8_t { kDense, kGroupedContiguous, kGroupedMasked, kGroupedK };

// How the scales lie over the operands, one FP32 value per block.
//   1d2d: A in 1x128 blocks (SFA [M, ceil(K/128)]), B in 128x128 blocks (SFB [ceil(N/128),
//   ceil(K/128)]).
//   1d1d: A and B in 1x128 blocks, both scale matrices M-major: sfa[kb * ld + m], sfb[kb * ld + n].
//   K is a run-time value then, for it counts tokens.
enum class Scaling : std::uint8_t { k1d2d, k1d1d };

// How group membership is given.
//   labels: int32[M] on the device, the group of each row, -1 for padding (grouped_contiguous)
//   ends:   int32[G] on the device; a group begins at the previous end rounded up to the alignment
//           (grouped_contiguous: rows; grouped_k: positions in K, alignment 128)
//   rows:   int32[G] on the device, valid rows of each group (grouped_masked)
//   packed: int32[G] on the host, K of each group; A and B hold one [M,K_g] and [N,K_g] after the
//           other (grouped_k)
enum class GroupForm : std::uint8_t { kNone, kLabels, kEnds, kRows, kPacked };

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
  std::int64_t k = 0;  // multiple of 16, in 16..2^31-512; 1d1d: a typical one, to choose tiles by
  Fp8Type a = Fp8Type::kE4m3;
  Fp8Type b = Fp8Type::kE4m3;
  OutputType out = OutputType::kBf16;
  ScaleMajor sfa_major = ScaleMajor::kRow;
  bool accumulate = false;  // D += instead of D =
  GroupForm group_form = GroupForm::kNone;
  std::int32_t groups = 1;     // G, in 1..kMaxGroups; 1 when dense
  std::int32_t alignment = 0;  // grouped_contiguous: a group's first row is a multiple of it (a
                               // power of two in 1..kMaxAlignment); 0 in the other layouts
  // One tile for every M, so that a row of D does not depend on how many rows are computed with it.
  // It decides which tiles are used and nothing about a kernel.
  bool batch_invariant = false;

  auto operator<=>(const Problem&) const = default;
};

inline constexpr std::int32_t kMaxGroups = 1024;
inline constexpr std::int32_t kMaxAlignment = 1024;

// Throws Error{kInvalidArgument} naming field, value, rule and remedy. A problem that passes can be
// planned, rendered and compiled.
void validate(const Problem& problem);

// The problem as its kernels see it: what they take at run time (alignment, K under 1d1d, the exact
// number of groups) has a fixed value, and so has batch_invariant. Problems with equal results
// share their kernels.
Problem canonical(const Problem& problem);

// Accumulates by reduction in L2 rather than by loading C: where computing takes longer than the
// slower way through memory. H200, 24576x4096x1536: 384 us with C loaded, 368 so; at K = 512 291
// and 420.
inline constexpr std::int64_t kReduceFromK = 1024;
inline bool reduces(const Problem& p) {
  return p.accumulate && p.out == OutputType::kF32 && p.k >= kReduceFromK &&
         (p.layout == Layout::kDense || p.layout == Layout::kGroupedK);
}

// Groups that a kernel for this problem has room for.
std::int32_t group_capacity(const Problem& problem);

inline bool is_grouped(const Problem& p) { return p.layout != Layout::kDense; }
// D's rows are divided among the groups on the device.
inline bool has_row_groups(const Problem& p) {
  return p.layout == Layout::kGroupedContiguous || p.layout == Layout::kGroupedMasked;
}

// The largest M a launch takes: the tile index and TMA coordinates stay in 31 bits.
inline constexpr std::int64_t kMaxM = (std::int64_t{1} << 31) - 512;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return ceil_div(value, unit) * unit;
}
inline std::int64_t scale_blocks(std::int64_t extent) { return ceil_div(extent, kScaleBlock); }
inline std::int64_t element_bytes(OutputType type) { return type == OutputType::kBf16 ? 2 : 4; }

// Names as the CLI, the JSON files and the log spell them: "dense", "1d2d", "e4m3", "bf16", "row",
// "ends".
std::string_view name(Layout value);
std::string_view name(Scaling value);
std::string_view name(Fp8Type value);
std::string_view name(OutputType value);
std::string_view name(ScaleMajor value);
std::string_view name(GroupForm value);

// The inverse of name(); throws Error{kInvalidArgument} listing the accepted words. `field` is what
// the message calls the value, e.g. "--a" or "problems[3].a".
Layout parse_layout(std::string_view text, std::string_view field);
Scaling parse_scaling(std::string_view text, std::string_view field);
Fp8Type parse_fp8_type(std::string_view text, std::string_view field);
OutputType parse_output_type(std::string_view text, std::string_view field);
ScaleMajor parse_scale_major(std::string_view text, std::string_view field);
GroupForm parse_group_form(std::string_view text, std::string_view field);

// What a layout takes when nothing else is said: contiguous and grouped_k ends, masked rows.
GroupForm default_group_form(Layout layout);

// One line, unique per problem, e.g. "dense 1d2d n=7168 k=2048 e4m3 x e4m3 -> bf16 sfa=row", or
// "grouped_contiguous 1d2d n=4096 k=7168 e4m3 x e4m3 -> bf16 sfa=m ends groups=32 alignment=128".
std::string describe(const Problem& problem);

}  // namespace kiln::jit
