"""Pure functions: state machines, the gate, the policy, legal deadlines."""
