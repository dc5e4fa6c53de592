// OnceMap: a value per key, built once however many threads ask for it at the same time.
#pragma once

#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "jit/error.h"

namespace kiln::runtime {

// Thread-safe. Values are never removed and never move, so references stay valid as long as the
// map. No lock is held while a value is built. When building throws, every caller that waited for
// that build gets an exception of its own that says the same, and the next call builds again.
template <class Key, class Value>
class OnceMap {
 public:
  template <class Build>  // Value build()
  const Value& get_or_build(const Key& key, Build&& build) {
    std::promise<Outcome> promise;
    const auto [future, is_builder] = join(key, promise);
    if (!is_builder) return value_of(future.get());
    // After a failure the key is forgotten before the waiters wake, so that none finds it again.
    try {
      promise.set_value({std::make_shared<const Value>(std::forward<Build>(build)())});
    } catch (const Error& error) {
      forget(key);
      promise.set_value({nullptr, error.status(), error.what()});
      throw;
    } catch (...) {
      forget(key);
      promise.set_exception(std::current_exception());
      throw;
    }
    return value_of(future.get());
  }

  // The value if it is built, else null; never waits for a build.
  const Value* find(const Key& key) const {
    const std::lock_guard lock(mutex_);
    const auto found = values_.find(key);
    if (found == values_.end()) return nullptr;
    const bool built = found->second.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    return built ? found->second.get().value.get() : nullptr;
  }

 private:
  struct Outcome {
    std::shared_ptr<const Value> value;  // null: the build failed with an Error
    Status status = Status::kOk;
    std::string message{};
  };
  using Future = std::shared_future<Outcome>;

  // Each waiter throws an Error that it shares with nobody.
  static const Value& value_of(const Outcome& outcome) {
    if (outcome.value == nullptr) throw Error(outcome.status, outcome.message);
    return *outcome.value;
  }

  std::pair<Future, bool> join(const Key& key, std::promise<Outcome>& promise) {
    const std::lock_guard lock(mutex_);
    const auto [slot, inserted] = values_.try_emplace(key);
    if (inserted) slot->second = promise.get_future().share();
    return {slot->second, inserted};
  }

  void forget(const Key& key) {
    const std::lock_guard lock(mutex_);
    values_.erase(key);
  }

  mutable std::mutex mutex_;
  std::map<Key, Future> values_;
};

}  // namespace kiln::runtime
