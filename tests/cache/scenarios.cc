#include "scenarios.h"

#include <stdexcept>
#include <variant>

#include "cache/bundle.h"

namespace kiln::cache::test {
namespace {

Options durable_options(const std::string& root) {
  Options options = options_for(root);
  options.fsync = true;
  return options;
}

void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(what);
}

void prepare_nothing(const std::string&) {}

bool publish_into_new_directory(const std::string& root, const Files& files) {
  DiskCache cache(durable_options(root), files);
  bool right = right_or_nothing(cache);
  cache.publish(scenario_entry());
  right &= right_or_nothing(cache);
  return right;
}

void prepare_entry(const std::string& root) {
  require(DiskCache(options_for(root)).publish(scenario_entry()), "publish");
  set_age(entry_file(root, scenario_entry().key), 7200);  // a touch is due
}

bool find_and_reject(const std::string& root, const Files& files) {
  Options options = durable_options(root);
  options.layers = {root};
  DiskCache cache(options, files);
  bool right = right_or_nothing(cache);
  cache.reject(scenario_entry().key);
  cache.publish(scenario_entry());
  right &= right_or_nothing(cache);
  return right;
}

void prepare_damaged_entry(const std::string& root) {
  prepare_entry(root);
  std::vector<std::byte> bytes = read_bytes(entry_file(root, scenario_entry().key));
  bytes[600] ^= std::byte{1};
  write_bytes(entry_file(root, scenario_entry().key), bytes);
}

// The entry cannot be moved aside, so it is replaced where it is.
bool replace_in_place(const std::string& root, const Files& files) {
  DiskCache cache(durable_options(root), files);
  cache.lookup(scenario_entry().key, sha256("another toolchain"));
  cache.publish(scenario_entry());
  return right_or_nothing(cache);
}

void prepare_full_directory(const std::string& root) {
  DiskCache cache(options_for(root));
  for (int i = 10; i < 13; ++i) {
    require(cache.publish(sample_entry(i)), "publish");
    set_age(entry_file(root, sample_entry(i).key), 1000);
  }
  write_text(root + "/v1/tmp/orphan", "x");
  set_age(root + "/v1/tmp/orphan", 4000);
}

bool evict_lock_and_maintain(const std::string& root, const Files& files) {
  Options options = durable_options(root);
  options.max_bytes = 1000;
  DiskCache cache(options, files);
  { const KeyLock lock = cache.lock(scenario_entry().key, 0); }
  cache.publish(scenario_entry());
  cache.list();
  cache.prune(500);
  cache.record_toolchain("toolchain");
  cache.record_toolchain("toolchain");
  bool right = true;
  for (const std::string& text : cache.recorded_toolchains()) right &= text == "toolchain";
  right &= right_or_nothing(cache);
  cache.prune(0, true);
  return right;
}

// As the engine makes them: the key is the digest of a text that names the toolchain.
Entry bundled_entry(std::uint64_t seed, std::size_t cubin_bytes) {
  const std::string toolchain = "toolchain of the scenarios";
  Entry entry = sample_entry(seed, cubin_bytes);
  entry.key_text = KeyBuilder("test")
                       .add("seed", static_cast<std::int64_t>(seed))
                       .add("toolchain", toolchain)
                       .text();
  entry.key = sha256(entry.key_text);
  entry.toolchain = sha256(toolchain);
  return bundled(entry);
}

// A bundle beside the directory; one of its entries is there already, damaged.
void prepare_bundle(const std::string& root) {
  auto bytes = encode_bundle({scenario_entry(), bundled_entry(2, 500), bundled_entry(3, 500)});
  require(std::holds_alternative<std::vector<std::byte>>(bytes), "encode_bundle");
  write_bytes(root + ".bundle", std::get<std::vector<std::byte>>(bytes));
  prepare_damaged_entry(root);
}

bool import_the_bundle(const std::string& root, const Files& files) {
  auto bundle = Bundle::open(root + ".bundle", {}, files);
  DiskCache cache(durable_options(root), files);
  if (const Bundle* opened = std::get_if<Bundle>(&bundle)) import_bundle(*opened, cache);
  const Entry second = bundled_entry(2, 500);
  const auto found = cache.lookup(second.key, second.toolchain);
  return right_or_nothing(cache) && (!found || *found == second);
}

}  // namespace

const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> kAll = {
      {"publish", prepare_nothing, publish_into_new_directory},
      {"find and reject", prepare_entry, find_and_reject},
      {"repair", prepare_damaged_entry, publish_into_new_directory},
      {"replace", prepare_entry, replace_in_place},
      {"evict", prepare_full_directory, evict_lock_and_maintain},
      {"import", prepare_bundle, import_the_bundle},
  };
  return kAll;
}

const Scenario& scenario(std::string_view name) {
  for (const Scenario& each : scenarios()) {
    if (each.name == name) return each;
  }
  throw std::runtime_error("no such scenario");
}

const Entry& scenario_entry() {
  static const Entry kEntry = bundled_entry(1, 2000);
  return kEntry;
}

bool right_or_nothing(DiskCache& cache) {
  const auto found = cache.lookup(scenario_entry().key, scenario_entry().toolchain);
  return !found || *found == scenario_entry();
}

std::string what_is_wrong_with(const std::string& root) {
  const Entry& entry = scenario_entry();
  DiskCache cache(options_for(root));
  if (cache.state() != DirectoryState::kUsable) return cache.state_message();
  if (!right_or_nothing(cache)) return "a lookup gave other bytes than were published";
  if (!cache.publish(entry)) return "publishing fails";
  if (cache.lookup(entry.key, entry.toolchain) != entry) return "what was published is not found";
  if (!cache.lock(entry.key, 1000).held()) return "the lock is not free";
  for (const ListedEntry& listed : cache.list()) {
    if (!std::holds_alternative<Entry>(listed.content)) return listed.path + " is damaged";
  }
  return "";
}

}  // namespace kiln::cache::test
