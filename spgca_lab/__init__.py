"""SPA/GCA Lab: attention-based regularisation for transfer learning, to run, see and question."""
