from protos import charstream_pb2 as charstream_pb2
