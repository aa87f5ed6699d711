"""One model, many clients: HTTP requests → jobs → batched steps of the engine → streams of text.

Read in the order data flows: `connection`, `guard`, `body`, `fields`, then one file per API
(`chat_request`, `text_request`, `llama_request`), `job`, `placement`, `scheduler`, and back:
`stop_text`, `reply`, `chat_reply`, `text_reply`, `llama_reply`, `stream`. `app` ties them
together, `run` binds the address and ends it all. Never imports torch.
"""
