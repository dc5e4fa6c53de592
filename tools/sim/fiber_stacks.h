// Stacks of fibers: mapped once, with a page below each that cannot be touched, and used again.
#pragma once

#include <boost/context/stack_context.hpp>
#include <vector>

namespace kiln::sim {

class StackPool {
 public:
  ~StackPool();
  boost::context::stack_context allocate();
  void deallocate(boost::context::stack_context& stack);
  void forget();  // what unfinished fibers left: stacks are new again

 private:
  std::vector<boost::context::stack_context> free_;
};

// What boost::context takes by value.
struct PooledStacks {
  StackPool* pool;
  boost::context::stack_context allocate() { return pool->allocate(); }
  void deallocate(boost::context::stack_context& stack) { pool->deallocate(stack); }
};

}  // namespace kiln::sim
