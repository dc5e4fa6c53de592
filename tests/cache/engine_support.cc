#include "engine_support.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <stdexcept>

#include "jit/source.h"

namespace kiln::cache::test {
namespace {

using Clock = std::chrono::steady_clock;

std::shared_ptr<kiln::test::FakeToolchain>& toolchain() {
  static auto shared = std::make_shared<kiln::test::FakeToolchain>();
  return shared;
}

// What a child does once the others are ready as well: 0, or which of its checks failed.
int ask_for_everything(const std::string& root, const Crowd& crowd, int process) {
  runtime::Engine engine(engine_options(root, crowd.files, crowd.compile_ms));
  std::vector<int> order(crowd.keys);
  for (int i = 0; i < crowd.keys; ++i) order[i] = i;
  Random random(process);
  for (int i = crowd.keys - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  for (const int i : order) {
    const jit::KernelSpec spec = kernel_number(i);
    if (!is_right(spec, engine.cubin_for(spec))) return 1;
  }
  return 0;
}

}  // namespace

runtime::EngineOptions engine_options(const std::string& root, const Files* files, int compile_ms) {
  toolchain()->delay_ms = compile_ms;
  runtime::EngineOptions options;
  options.num_sms = 132;
  options.cache_directory = root;
  options.log.level = runtime::LogLevel::kOff;
  options.builtin_tuned = false;
  options.hooks = kiln::test::fake_hooks(toolchain(), "no driver is opened");
  options.hooks.cache_files = files;
  return options;
}

int compiles_in_this_process() { return toolchain()->compiles; }

jit::KernelSpec kernel_number(int i) {
  jit::Problem problem;
  problem.n = 512 + 16 * (i % 64);
  problem.k = 1024 + 128 * (i / 64);
  return {jit::GemmSpec{problem, jit::Tile{}}, {}};
}

bool is_right(const jit::KernelSpec& spec, const runtime::Cubin& cubin) {
  const jit::Source source = jit::render(spec);
  if (cubin.entry.cubin.empty() || cubin.entry.cubin.back() != std::byte{0}) return false;
  const auto image = kiln::test::read_fake_cubin(cubin.entry.cubin.data());
  return image && image->entry == source.entry && cubin.entry.kernel_name == source.entry;
}

CrowdResult run_crowd(const std::string& root, const Crowd& crowd) {
  using Counter = std::atomic<int>;
  void* const shared =
      ::mmap(nullptr, sizeof(Counter), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) throw std::runtime_error("mmap");
  auto* const compiles = new (shared) Counter(0);
  int gate[2];
  if (::pipe(gate) != 0) throw std::runtime_error("pipe");
  std::vector<pid_t> children;
  for (int process = 0; process < crowd.processes; ++process) {
    children.push_back(start_child([&, process] {
      ::close(gate[1]);
      if (crowd.prepare) crowd.prepare(process);
      char ignored;
      if (::read(gate[0], &ignored, 1) != 0) return 2;  // the end of the pipe is the start
      const int status = ask_for_everything(root, crowd, process);
      *compiles += compiles_in_this_process();
      return status;
    }));
  }
  CrowdResult result;
  ::close(gate[0]);
  const auto start = Clock::now();
  ::close(gate[1]);
  for (const pid_t child : children) result.failed_processes += wait_for(child) != 0;
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  result.compiles = *compiles;
  ::munmap(shared, sizeof(Counter));
  return result;
}

}  // namespace kiln::cache::test
