#include "tests/sim/case_runner.h"

#include <span>

namespace kiln::test {
namespace {

std::uint64_t hash_of(std::span<const std::byte> bytes) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const std::byte byte : bytes)
    hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3ull;
  return hash;
}

bool is_plain_dense(const jit::Problem& p) {
  return p.layout == jit::Layout::kDense && p.scaling == jit::Scaling::k1d2d;
}

}  // namespace

CaseRunner::CaseRunner(Gpu& gpu, const GroupedCase& test) : gpu_(gpu), test_(test) {
  if (is_plain_dense(test.problem)) {
    dense_ = std::make_unique<GemmData>(gpu, GemmCase{test.problem, test.m, test.tile, test.seed});
    dense_->fill_exact();
  } else {
    grouped_ = std::make_unique<GroupedGemm>(gpu, test);
    grouped_->fill_exact();
    grouped_->upload();
  }
}

std::string CaseRunner::launch(std::int32_t num_sms) {
  return dense_ != nullptr ? launch_dense(num_sms) : launch_grouped(num_sms);
}

std::string CaseRunner::launch_dense(std::int32_t num_sms) {
  dense_->d16.poison_all();  // what an earlier launch left must not pass for a result
  dense_->d32.poison_all();
  dense_->upload();
  kiln_operands operands = dense_->operands();
  operands.num_sms = num_sms;
  if (kiln_launch(dense_->plan(), &operands, gpu_.stream()) != KILN_OK) return kiln_last_error();
  if (!dense_->download()) return "wrong result: something was written around D";
  const std::span<const std::byte> bytes =
      test_.problem.out == jit::OutputType::kBf16 ? dense_->d16.bytes() : dense_->d32.bytes();
  const std::uint64_t hash = hash_of(bytes);
  if (has_hash_ && hash == hash_) return "";
  const std::int64_t mismatches = dense_->mismatches();
  if (mismatches > 0) return "wrong result: " + std::to_string(mismatches) + " elements";
  has_hash_ = true;
  hash_ = hash;
  return "";
}

std::string CaseRunner::launch_grouped(std::int32_t num_sms) {
  grouped_->reset_output();
  const kiln_operands operands = grouped_->operands(
      test_.zero_padding ? static_cast<std::uint32_t>(KILN_LAUNCH_ZERO_PADDING) : 0u, num_sms);
  if (kiln_launch(grouped_->plan(), &operands, gpu_.stream()) != KILN_OK) return kiln_last_error();
  const std::uint64_t hash = hash_of(grouped_->output_bytes());
  if (has_hash_ && hash == hash_) return "";
  const std::string defect = grouped_->defect();
  if (!defect.empty()) return "wrong result: " + defect;
  has_hash_ = true;
  hash_ = hash;
  return "";
}

}  // namespace kiln::test
