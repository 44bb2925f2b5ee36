"""Machinery that the six scripts call and a first reading skips. In reading order:

rows             JSONL rows, the contract between all stages
columns          rows of other people's columns and files become ours
template         what a tokenizer's chat template writes by itself
format           the text of a reasoning model: prompt, thinking, response
settings         flags from a dataclass, and the settings that scripts share
axes             axes of figures: readable ticks, a word in an empty panel
runlog           a run on disk: identity, log, how it ends when told to
machine          device, free memory, the most memory used
packing          sequences side by side in one row, and which tokens are scored
attention        one attention function for packed rows and decoding steps
model            forward passes of any causal language model
kv_cache         keys and values of the sequences that are being decoded
loading          model directories in and out: load, check, save
sampling         the next token: random numbers, top-k, top-p
ending           the end of thinking where no single token has it
onednn           linear layers of a large model on a CPU, while it decodes
decoder          the batched decoder: continuous batching, forced budgets
completions      completion rows, and the file that a run writes them to
scoring          likelihoods of given completions
sweep            one run for each value of a flag
chat             questions and answers in the terminal
processes        the processes of torchrun: who does what
dealing          work dealt to them, evenly
lora             adapters: two thin matrices beside each frozen one
dtensors         a weight that is cut over ranks
tensor_parallel  a model cut over several GPUs, to sample
sharding         a model in shards (FSDP2), to train
trackers         the log handed on to TensorBoard or Weights & Biases
checkpoints      weights, optimizer and random state on disk
training         optimizers, one update, the run loop of sft.py and grpo.py
shared_prompts   packing groups, a prompt once for its samples
rollout          a rollout as tensors: micro-batches, sums over tokens
logprobs         log-probabilities and self-certainty of given completions
watch            warnings, samples and curves of an RL run
published        facts: shapes of models, data sheets of GPUs, papers' settings
activations      the memory of activations, simulated
fitting          micro-batches that fit into free memory
costs            what a run costs: memory and seconds, as formulas
plan             will it fit, how long will it take (python -m engine.plan)
"""
