"""Model files: download, verify, convert and map them, and return the weights as a tree of arrays.

Three modules read one format each, all with a function `load`: openai, hugging_face, nanogpt. utils.py selects one.

    tensors      names and shapes of a GPT-2's tensors; checks; the weights tree
    mapped       safetensors files: written once, then mapped
    state_dict   the tensors of Hugging Face and nanoGPT checkpoints
    torchfile    files of torch.save
    download     OpenAI's official files
    transfer     one file over HTTP
    files        safe opening, locks, atomic writes, JSON, checksums, CheckpointError
    messages     foreign text in messages
"""
