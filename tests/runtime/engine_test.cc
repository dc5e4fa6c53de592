// The central path with a fake compiler and a fake driver: who compiles, how often, and what a
// cache that lies, is damaged or is away changes.
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <thread>
#include <vector>

#include "tests/runtime/support.h"

namespace kiln::test {
namespace {

using runtime::Engine;
using runtime::EngineOptions;
using runtime::MissPolicy;

Status status_of(const std::function<void()>& call, std::string* message = nullptr) {
  try {
    call();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.status();
  }
  return Status::kOk;
}

std::vector<std::string> entry_files(const std::string& root) {
  std::vector<std::string> files;
  for (const auto& item : std::filesystem::recursive_directory_iterator(root)) {
    if (item.path().extension() == ".kiln") files.push_back(item.path());
  }
  return files;
}

void flip_middle_byte(const std::string& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto middle = static_cast<std::streamoff>(std::filesystem::file_size(path) / 2);
  file.seekg(middle);
  const char byte = static_cast<char>(file.get());
  file.seekp(middle);
  file.put(static_cast<char>(byte ^ 0x10));
  REQUIRE(file.good());
}

template <class Body>
void in_threads(int count, Body body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back([&body, i] { body(i); });
  for (std::thread& thread : threads) thread.join();
}

// One of each layout, scaling and form besides dense 1d2d, and one with room for more groups.
std::vector<jit::Problem> grouped_problems() {
  using jit::GroupForm;
  using jit::Layout;
  std::vector<jit::Problem> problems;
  const auto add = [&](Layout layout, GroupForm form, int groups) {
    jit::Problem p = std::get<jit::GemmSpec>(gemm_spec().kernel).problem;
    p.layout = layout;
    p.group_form = form;
    p.groups = groups;
    if (layout == Layout::kGroupedContiguous) p.alignment = 128;
    if (!jit::has_row_groups(p)) {
      p.scaling = jit::Scaling::k1d1d;
      p.sfa_major = jit::ScaleMajor::kM;
    }
    problems.push_back(jit::canonical(p));
  };
  add(Layout::kDense, GroupForm::kNone, 1);
  add(Layout::kGroupedContiguous, GroupForm::kLabels, 4);
  add(Layout::kGroupedContiguous, GroupForm::kEnds, 4);
  add(Layout::kGroupedContiguous, GroupForm::kEnds, 1024);
  add(Layout::kGroupedMasked, GroupForm::kRows, 4);
  add(Layout::kGroupedK, GroupForm::kEnds, 4);
  add(Layout::kGroupedK, GroupForm::kPacked, 4);
  return problems;
}

}  // namespace

TEST_CASE("a kernel is compiled once and then found in memory", "[runtime]") {
  FakeMachine machine;
  Engine engine(machine.options("", 0));
  const auto& first = engine.kernel_for(gemm_spec());
  const auto& second = engine.kernel_for(gemm_spec());
  CHECK(&first == &second);
  CHECK(engine.find_loaded(gemm_spec()) == &first);
  CHECK(machine.toolchain->compiles == 1);
  CHECK(machine.cuda.calls("cuLibraryLoadData") == 1);
  CHECK(first.info().registers == 100);
  CHECK_FALSE(first.info().from_disk);
}

TEST_CASE("sixteen threads and two engines on one directory compile each key exactly once",
          "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  machine.toolchain->delay_ms = 5;
  Engine one(machine.options(dir.path(), 0));
  Engine two(machine.options(dir.path()));  // as a second process would, without a device
  constexpr int kKernels = 12;
  in_threads(16, [&](int thread) {
    for (int i = 0; i < kKernels; ++i) {
      const auto spec = gemm_spec(512, 128 * (1 + (i + thread) % kKernels));
      if (thread % 2 == 0) {
        one.kernel_for(spec);
      } else {
        two.prepare(spec);
      }
    }
  });
  CHECK(machine.toolchain->compiles == kKernels);
  CHECK(machine.toolchain->most_compiles_of_one() == 1);
  CHECK(one.compiles() + two.compiles() == kKernels);
  CHECK(one.loads() == kKernels);
  CHECK(entry_files(dir.path()).size() == kKernels);
}

TEST_CASE("a second engine on a warm directory hits always and never compiles", "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  constexpr int kKernels = 8;
  const auto warm = [&](int device) {
    Engine engine(machine.options(dir.path(), device));
    for (int i = 1; i <= kKernels; ++i) engine.prepare(gemm_spec(512, 128 * i));
    return std::pair(engine.hits(), engine.compiles());
  };
  CHECK(warm(runtime::kDeviceNone) == std::pair<std::uint64_t, std::uint64_t>(0, kKernels));
  CHECK(warm(0) == std::pair<std::uint64_t, std::uint64_t>(kKernels, 0));
  CHECK(machine.toolchain->compiles == kKernels);
}

TEST_CASE("a failed build reaches every waiter and the next call builds again", "[runtime]") {
  FakeMachine machine;
  machine.toolchain->fails = true;
  machine.toolchain->delay_ms = 50;
  Engine engine(machine.options());
  std::atomic<int> failures{0};
  in_threads(4, [&](int) {
    if (status_of([&] { engine.prepare(gemm_spec()); }) == Status::kCompileFailed) ++failures;
  });
  CHECK(failures == 4);
  machine.toolchain->fails = false;
  CHECK(status_of([&] { engine.prepare(gemm_spec()); }) == Status::kOk);
}

TEST_CASE("a damaged entry is a miss, is compiled again and hits afterwards", "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  Engine(machine.options(dir.path())).prepare(gemm_spec());
  REQUIRE(entry_files(dir.path()).size() == 1);
  flip_middle_byte(entry_files(dir.path()).front());

  Engine repaired(machine.options(dir.path(), 0));
  CHECK(repaired.kernel_for(gemm_spec()).info().registers == 100);
  CHECK(machine.toolchain->compiles == 2);
  Engine after(machine.options(dir.path(), 0));
  CHECK(after.kernel_for(gemm_spec()).info().from_disk);
  CHECK(machine.toolchain->compiles == 2);
}

TEST_CASE("an entry whose META disagrees with the loaded kernel is rejected and compiled once",
          "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  machine.toolchain->reported_registers = 90;  // the cubin itself has 100
  Engine(machine.options(dir.path())).prepare(gemm_spec());

  SECTION("a right compile replaces it") {
    machine.toolchain->reported_registers = 100;
    Engine engine(machine.options(dir.path(), 0));
    const auto& kernel = engine.kernel_for(gemm_spec());
    CHECK_FALSE(kernel.info().from_disk);
    CHECK(kernel.info().registers == 100);
    CHECK(machine.toolchain->compiles == 2);
    Engine after(machine.options(dir.path(), 0));
    CHECK(after.kernel_for(gemm_spec()).info().from_disk);
  }
  SECTION("a compile that disagrees again is an error, not a loop") {
    Engine engine(machine.options(dir.path(), 0));
    std::string message;
    CHECK(status_of([&] { engine.kernel_for(gemm_spec()); }, &message) == Status::kDriverError);
    CHECK(message.find("registers") != std::string::npos);
    CHECK(machine.toolchain->compiles == 2);
    CHECK(machine.cuda.loaded_libraries == 0);
  }
}

TEST_CASE(
    "a cubin that the driver refuses is compiled again, other load errors are not the entry's "
    "fault",
    "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  Engine(machine.options(dir.path())).prepare(gemm_spec());
  Engine engine(machine.options(dir.path(), 0));
  SECTION("refused once") {
    machine.cuda.failing_loads = 1;
    CHECK_FALSE(engine.kernel_for(gemm_spec()).info().from_disk);
    CHECK(machine.toolchain->compiles == 2);
  }
  SECTION("out of memory") {
    machine.cuda.load_result = CUDA_ERROR_OUT_OF_MEMORY;
    CHECK(status_of([&] { engine.kernel_for(gemm_spec()); }) == Status::kOutOfMemory);
    machine.cuda.load_result = CUDA_SUCCESS;
    CHECK(engine.kernel_for(gemm_spec()).info().from_disk);
    CHECK(machine.toolchain->compiles == 1);
  }
}

TEST_CASE("without a compiler kernels that are on disk still load, others say so", "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  Engine(machine.options(dir.path())).prepare(gemm_spec());
  const auto away = std::make_shared<FakeToolchain>();
  away->available = false;
  EngineOptions options = machine.options(dir.path(), 0);
  options.hooks = fake_hooks(away, fake_cuda_path());
  Engine engine(options);
  CHECK(engine.kernel_for(gemm_spec()).info().from_disk);
  std::string message;
  CHECK(status_of([&] { engine.kernel_for(gemm_spec(512, 128)); }, &message) ==
        Status::kNoCompiler);
  CHECK(message.find("n=512 k=128") != std::string::npos);
  CHECK(message.find("the fake compiler is away") != std::string::npos);
  CHECK_FALSE(engine.key_for(gemm_spec()).empty());
  CHECK(away->opened == 1);
}

TEST_CASE("a frozen engine loads what is on disk and names the key of what is not", "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  Engine(machine.options(dir.path())).prepare(gemm_spec());
  EngineOptions options = machine.options(dir.path(), 0);
  options.miss_policy = MissPolicy::kFrozen;
  Engine frozen(options);
  CHECK(frozen.kernel_for(gemm_spec()).info().from_disk);
  std::string message;
  CHECK(status_of([&] { frozen.kernel_for(gemm_spec(512, 128)); }, &message) == Status::kFrozen);
  CHECK(message.find(frozen.key_for(gemm_spec(512, 128))) != std::string::npos);
  CHECK(machine.toolchain->compiles == 1);
}

TEST_CASE("a frozen engine also takes what another toolchain compiled", "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  Engine(machine.options(dir.path())).prepare(gemm_spec());
  machine.toolchain->fingerprint = "fake 1.3 build=def";
  EngineOptions options = machine.options(dir.path(), 0);
  CHECK_FALSE(
      Engine(options).kernel_for(gemm_spec()).info().from_disk);  // may compile: its own alone
  options.miss_policy = MissPolicy::kFrozen;
  machine.toolchain->fingerprint = "fake 1.4 build=123";
  CHECK(Engine(options).kernel_for(gemm_spec()).info().from_disk);
}

TEST_CASE("the key differs when any one field differs and when nothing else does", "[runtime]") {
  FakeMachine machine;
  Engine engine(machine.options());
  std::set<std::string> keys;
  int made = 0;
  const auto add = [&](const jit::KernelSpec& spec) {
    keys.insert(engine.key_for(spec));
    ++made;
  };
  const auto vary = [&](auto&& change) {
    jit::KernelSpec spec = gemm_spec();
    change(std::get<jit::GemmSpec>(spec.kernel));
    add(spec);
  };
  add(gemm_spec());
  vary([](jit::GemmSpec& s) { s.problem.n = 520; });
  vary([](jit::GemmSpec& s) { s.problem.k = 1040; });
  vary([](jit::GemmSpec& s) { s.problem.a = jit::Fp8Type::kE5m2; });
  vary([](jit::GemmSpec& s) { s.problem.b = jit::Fp8Type::kE5m2; });
  vary([](jit::GemmSpec& s) { s.problem.out = jit::OutputType::kF32; });
  vary(
      [](jit::GemmSpec& s) { s.problem.out = jit::OutputType::kF32, s.problem.accumulate = true; });
  vary([](jit::GemmSpec& s) { s.problem.accumulate = true; });
  for (const jit::Problem& problem : grouped_problems())
    vary([&](jit::GemmSpec& s) { s.problem = problem; });
  vary([](jit::GemmSpec& s) { s.problem.sfa_major = jit::ScaleMajor::kM; });
  vary([](jit::GemmSpec& s) { s.tile.block_m = 256; });
  vary([](jit::GemmSpec& s) { s.tile.block_n = 64; });
  vary([](jit::GemmSpec& s) { s.tile.warpgroups_m = 1, s.tile.block_m = 64; });
  vary([](jit::GemmSpec& s) { s.tile.warpgroups_n = 2; });
  vary([](jit::GemmSpec& s) { s.tile.stages = 3; });
  vary([](jit::GemmSpec& s) { s.tile.cluster_m = 2; });
  vary([](jit::GemmSpec& s) { s.tile.cluster_n = 2; });
  vary([](jit::GemmSpec& s) { s.tile.raster_group = 4; });
  for (const auto in : {jit::QuantizeInput::kBf16, jit::QuantizeInput::kF32}) {
    for (const auto out : {jit::Fp8Type::kE4m3, jit::Fp8Type::kE5m2}) {
      for (const bool power_of_two : {false, true}) {
        add({jit::QuantizeSpec{in, out, jit::ScaleGranularity::k1x128, jit::ScaleMajor::kRow,
                               power_of_two},
             {}});
        add({jit::QuantizeSpec{in, out, jit::ScaleGranularity::k1x128, jit::ScaleMajor::kM,
                               power_of_two},
             {}});
        add({jit::QuantizeSpec{in, out, jit::ScaleGranularity::k128x128, jit::ScaleMajor::kRow,
                               power_of_two},
             {}});
      }
    }
  }
  add({jit::FillSpec{}, {}});
  const auto with_toolchain = [&](auto&& change) {
    FakeMachine other;
    change(*other.toolchain);
    keys.insert(Engine(other.options()).key_for(gemm_spec()));
    ++made;
  };
  with_toolchain([](FakeToolchain& t) { t.fingerprint = "fake 1.2 build=abd"; });
  with_toolchain([](FakeToolchain& t) { t.options.push_back("--three"); });
  with_toolchain([](FakeToolchain& t) { std::swap(t.options[0], t.options[1]); });
  CHECK(keys.size() == static_cast<std::size_t>(made));
  CHECK(keys.count("") == 0);
}

TEST_CASE(
    "the key does not depend on the cache directory, the working directory, the device or the "
    "engine",
    "[runtime]") {
  FakeMachine machine;
  machine.cuda.devices[0].num_sms = 78;
  const TempDir dir;
  const std::string key = Engine(machine.options()).key_for(gemm_spec());
  CHECK(Engine(machine.options(dir.path())).key_for(gemm_spec()) == key);
  CHECK(Engine(machine.options(dir.path(), 0)).key_for(gemm_spec()) == key);
  EngineOptions small = machine.options();
  small.num_sms = 20;
  small.miss_policy = MissPolicy::kFrozen;
  CHECK(Engine(small).key_for(gemm_spec()) == key);
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  CHECK(Engine(machine.options()).key_for(gemm_spec()) == key);
  std::filesystem::current_path(before);
}

TEST_CASE("an unusable or untrusted cache directory is a warning, and kernels are compiled",
          "[runtime]") {
  FakeMachine machine;
  const TempDir dir;
  std::vector<std::string> messages;
  EngineOptions options = machine.options();
  options.log.level = runtime::LogLevel::kWarning;
  options.log.user = &messages;
  options.log.callback = [](std::int32_t, const char* message, void* user) {
    static_cast<std::vector<std::string>*>(user)->push_back(message);
  };
  SECTION("untrusted: others may write it") {
    options.cache_directory = dir / "open";
    std::filesystem::create_directory(options.cache_directory);
    REQUIRE(chmod(options.cache_directory.c_str(), 0777) == 0);
    Engine engine(options);
    engine.prepare(gemm_spec());
    CHECK(engine.disk_cache().state() == cache::DirectoryState::kUntrusted);
    CHECK(entry_files(options.cache_directory).empty());
  }
  SECTION("unusable: a file stands there") {
    options.cache_directory = dir / "file";
    std::ofstream(options.cache_directory) << "not a directory";
    Engine engine(options);
    engine.prepare(gemm_spec());
    CHECK(engine.disk_cache().state() != cache::DirectoryState::kUsable);
  }
  CHECK(machine.toolchain->compiles == 1);
  CHECK(messages.size() == 1);
}

TEST_CASE("NVRTC is opened when the first key is needed, not before", "[runtime]") {
  FakeMachine machine;
  Engine engine(machine.options());
  CHECK(machine.toolchain->opened == 0);
  engine.prepare(gemm_spec());
  engine.prepare(gemm_spec(512, 128));
  CHECK(machine.toolchain->opened == 1);
}

TEST_CASE("libraries are loaded in the engine's context and unloaded with the engine",
          "[runtime]") {
  FakeMachine machine;
  {
    Engine engine(machine.options("", 0));
    engine.kernel_for(gemm_spec());
    engine.kernel_for(gemm_spec(512, 128));
    CHECK(machine.cuda.loaded_libraries == 2);
    CHECK(machine.cuda.retained_contexts == 1);
  }
  CHECK(machine.cuda.loads_in_wrong_context == 0);
  CHECK(machine.cuda.loaded_libraries == 0);
  CHECK(machine.cuda.retained_contexts == 0);
  CHECK(machine.cuda.calls("cuFuncLoad") == 2);  // nothing is left to be loaded at the first launch
}

}  // namespace kiln::test
