// For the tests of every layout on a real GPU: one launch with its operands on host and device, all
// that must not be read or written poisoned, and a reference on the host in double precision.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "jit/tile.h"
#include "tests/runtime/gpu_support.h"

namespace kiln::test {

// What is launched. `sizes` are the rows of each group, under grouped_k their K; dense 1d1d is one
// group of K. problem.groups is taken from them.
struct GroupedCase {
  jit::Problem problem;
  std::vector<std::int32_t> sizes;
  // dense, grouped_k: rows of D. grouped_masked: rows of each group's slice. Not used by
  // grouped_contiguous, which has as many rows as its groups and paddings take, rounded up to the
  // alignment.
  std::int64_t m = 0;
  std::int64_t slack = 0;               // contiguous rows, or columns of K, behind the last group
  std::vector<std::int32_t> gaps = {};  // labels: paddings before each group, in alignments
  std::vector<std::int32_t> experts = {};
  std::int32_t num_slices = 0;  // of B (grouped_k: of D); 0: one for each group
  bool zero_padding = false;    // contiguous: the launch asks for zeros
  bool fill_all = false;  // no poison inside A, B and their scales, so that regroup() may use it
  std::optional<jit::Tile> tile = std::nullopt;
  std::uint64_t seed = 1;
};
std::string describe(const GroupedCase& test);

class GroupedGemm {
 public:
  // The plan belongs to `engine`, or to the GPU's own when null.
  GroupedGemm(Gpu& gpu, const GroupedCase& test, kiln_engine* engine = nullptr);
  ~GroupedGemm();
  GroupedGemm(const GroupedGemm&) = delete;
  GroupedGemm& operator=(const GroupedGemm&) = delete;

  // Values and scales for which every partial sum is exact, in the tensor core as in FP32.
  void fill_exact();
  // Any finite FP8 values of moderate size, any positive scales.
  void fill_random();
  // Other codes or scales in a group's row of A, or column of B; after fill_exact() and before
  // upload(). Groups count from 0, those without rows left out; k and block from the group's first.
  void spoil_a(std::size_t number, std::int64_t row, std::int64_t k, std::uint8_t code);
  void spoil_b(std::size_t number, std::int64_t col, std::int64_t k, std::uint8_t code);
  void spoil_sfa(std::size_t number, std::int64_t row, std::int64_t block, float scale);
  void spoil_sfb(std::size_t number, std::int64_t col, std::int64_t block, float scale);
  void upload();
  void reset_output();  // D as it is before the launch

  kiln_plan* plan();
  kiln_operands operands(std::uint32_t flags = 0, std::int32_t num_sms = 0) const;
  // Enqueues on the GPU's stream.
  void launch(std::uint32_t flags = 0, std::int32_t num_sms = 0);

  // Other sizes in the same memory, on the device at once: the stream must be idle. The case must
  // have been made with fill_all.
  void regroup(const std::vector<std::int32_t>& sizes);
  // Whatever values, on the device at once: for contracts that are broken.
  void set_grouping(const std::vector<std::int32_t>& values);
  void set_experts(const std::vector<std::int32_t>& values);

  // Waits and downloads D. What is wrong with its values, or with what should not have been
  // written; empty when nothing is. `times`: how often the product was added.
  std::string defect(int times = 1);
  // Waits and downloads D; whether everything outside its slices is intact, whatever is inside.
  bool nothing_written_outside();
  // Waits and downloads D with all that surrounds it.
  const std::vector<std::byte>& output_bytes();

  std::int64_t m() const { return m_; }
  std::int64_t k() const { return k_; }
  const std::vector<std::int32_t>& grouping() const { return grouping_values_; }

 private:
  // Rows of one slice of D and what they are computed from; no K: zeros, or D as it was.
  struct Part {
    std::int64_t d_slice, first_row, end_row;
    std::int64_t a_slice, b_slice;
    std::int64_t k_begin, k_end;
  };
  const jit::Problem& problem() const { return test_.problem; }
  bool is_bf16() const { return problem().out == jit::OutputType::kBf16; }
  bool is_1d1d() const { return problem().scaling == jit::Scaling::k1d1d; }
  std::int64_t slices() const;
  std::int64_t expert_of(std::size_t group) const;
  void divide();  // parts_ and grouping_values_ from sizes
  void divide_rows();
  void divide_k();
  void add_padding_parts();

  void fill(const std::function<float()>& value_a, const std::function<float()>& value_b,
            const std::function<float()>& scale, const std::function<float()>& value_c);
  void fill_part(const Part& part, const std::function<std::uint8_t()>& code_a,
                 const std::function<std::uint8_t()>& code_b, const std::function<float()>& scale);
  void zero_tail(const Part& part, bool of_a);
  std::uint8_t& a_at(const Part& part, std::int64_t row, std::int64_t k);
  std::uint8_t& b_at(const Part& part, std::int64_t col, std::int64_t k);
  float& sfa_at(const Part& part, std::int64_t row, std::int64_t block);
  float& sfb_at(const Part& part, std::int64_t col, std::int64_t block);
  std::int64_t d_row(const Part& part, std::int64_t row) const {
    return part.d_slice * (m_ + 1) + row;
  }

  // [rows, n] of the part's products; with magnitudes instead of values for the error's bound.
  std::vector<double> products(const Part& part, bool magnitudes);
  double take_result(std::int64_t row, std::int64_t col);
  void download();

  Gpu& gpu_;
  GroupedCase test_;
  kiln_engine* engine_;
  std::mt19937_64 random_;
  std::int64_t m_ = 0, k_ = 0;  // as the launch says them
  std::vector<Part> parts_;
  std::vector<std::int32_t> grouping_values_;
  bool exact_ = false;
  kiln_plan* plan_ = nullptr;
  // Slices lie one row apart from each other, so that there is something to guard between them.
  PaddedMatrix<std::uint8_t> a_, b_;
  PaddedMatrix<float> sfa_, sfb_;
  PaddedMatrix<std::uint16_t> d16_;  // one of the two is empty
  PaddedMatrix<float> d32_;
  PaddedMatrix<float> c_;  // D before the launch
  PaddedMatrix<std::int32_t> grouping_, experts_;
};

// One launch with exact, or random, data against the reference.
void check_exact(Gpu& gpu, const GroupedCase& test, std::int32_t num_sms = 0);
void check_random(Gpu& gpu, const GroupedCase& test);
// The exact check with about `at_most` tiles of the menu, evenly spread.
void check_tiles(Gpu& gpu, GroupedCase test, std::size_t at_most);
// One launch with these values on the device, whatever they are: nothing outside D is written.
void check_broken_contract(GroupedGemm& gemm, const std::vector<std::int32_t>& grouping,
                           const std::vector<std::int32_t>& experts);

}  // namespace kiln::test
