// A problem made concrete for one measurement: how large its groups are, and where the operands of
// each group's product lie. Arithmetic only: knows no GPU and allocates no operands.
//
// Every layout is a list of products D[m,n] (+)= A[m,k] x B[n,k]^T on parts of the operands, of
// which dense has one. Operands are packed: no padding but what the layouts ask for.
#pragma once

#include <cstdint>
#include <vector>

#include "jit/problem.h"
#include "tools/group_sizes.h"

namespace kiln::tools {

// What a measurement adds to a problem.
struct Sizing {
  std::int64_t m = 0;      // dense, grouped_k: rows of D; row groups: mean rows of a group
  std::int64_t max_m = 0;  // grouped_masked: rows of a slice; 0: the next multiple of 128 that
                           // holds whatever may be drawn
  Skew skew = Skew::kUniform;
  std::uint64_t seed = 1;
};

struct Range {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

struct Workload {
  jit::Problem problem;
  std::int64_t m = 0;       // of the launch: contiguous all rows, masked the rows of a slice
  std::int64_t k = 0;       // of the launch: grouped_k all groups together
  std::int64_t plan_m = 0;  // what chooses the tile: m, masked the expected rows
  std::int64_t ld_sfa = 0, ld_sfb = 0;
  // Of each group: contiguous rows of A and D, masked rows of its slice, grouped_k positions in K.
  // Dense has one group with all rows.
  std::vector<Range> groups;
};

// Draws the sizes. Throws Error{kInvalidArgument} for a problem that jit::validate() refuses and
// for sizes that a launch cannot take.
Workload make_workload(const jit::Problem& problem, const Sizing& sizing);

// The M (masked: the expected rows) of a launch with groups of exactly the mean size, for choosing
// a tile without drawing sizes.
std::int64_t mean_plan_m(const jit::Problem& problem, std::int64_t m);

// Elements of the operands, of what a launch reads beside them (`grouping`), and of the largest
// part that is cast at once. In floating point, as they may be beyond 64 bits.
struct OperandSizes {
  double a = 0, b = 0, sfa = 0, sfb = 0, d = 0, grouping = 0, widest_part = 0;
};
OperandSizes operand_sizes(const Workload& workload);

// The rest is for operands that fit into memory.

// One group's product; offsets in elements from the operand's begin. An empty group has m or k = 0.
struct Product {
  std::int64_t m = 0, k = 0;
  std::int64_t a = 0, lda = 0, sfa = 0;
  std::int64_t b = 0, ldb = 0, sfb = 0;
  std::int64_t d = 0;
};
std::vector<Product> products(const Workload& workload);

// What the launch is told: labels, ends or rows; for the packed form K of each group, on the host.
std::vector<std::int32_t> grouping(const Workload& workload);

// Rows of D, counted through all slices, that belong to no group: ascending, none empty.
std::vector<Range> rows_of_no_group(const Workload& workload);

// Rows of all groups, as far as a kernel computes them: contiguous with padding, masked without;
// grouped_k: K of all groups. Dense: 0.
std::int64_t computed_total(const Workload& workload);

// Of the products alone, without padding: each operand once, D once (twice when accumulating).
double flops(const Workload& workload);
double moved_bytes(const Workload& workload);

}  // namespace kiln::tools
